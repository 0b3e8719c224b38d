"""How many pods of the service live sessions and recordings need, and what they cost; the tables of OPERATIONS.md.

    python scripts/deploy/capacity.py [--sessions 1000] [--hours 100000] [--core-hour 0.05]

Measured (2 cores of an AMD EPYC, Zen 4: avx512_bf16, avx512_vnni, nothing else running; in bf16):
- live sessions of a pod: the streams that keep up in the table of scripts/docs/how_to/live_captions.md, by
  `LiveEngine` without HTTP: 20 of the small base, 4 of wav2vec2-base's shape. `HEADROOM` of them are used.
- seconds of audio a second: 120 by the service for the small base (the least of scripts/bench_service.py), and for
  wav2vec2-base's shape 17.3 on one thread (scripts/bench_transcription.py), taken twice.

Assumed, not measured:
- pods of 2 such cores do not disturb each other: machines of more cores share memory and clock.
- a session lasts 5 minutes on average; sessions begin independently (Poisson).
- a core costs `--core-hour` for an hour. That is no offer of anyone: put your own price there.
- recordings come over the day as `1 + 0.8 sin`: by day up to 1.8 times the mean, by night 0.2 times.
- a pod that is asked for works `POD_SECONDS` later (node there already, image and model fetched).
- of `ZONES` zones one may be lost: what is needed is there without it.

Sessions are lost where they come to a pod that is full. A balancer that picks any pod makes each one a loss system of
its own (Erlang's formula B with the sessions of a pod); one that picks the pod with the fewest sessions loses one only
where all are full. `simulate_sessions` plays the same, session by session. `simulate_day` plays the autoscaler of the
chart against a day of recordings, each 15 seconds: what has come and is not computed yet waits backlog / speed. Waits
behind single long recordings, while pods are not all busy, are not in it.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

HEADROOM = 0.8
POD_SECONDS = 90.0
ZONES = 3
SESSION_SECONDS = 300.0
MOST_LOST = 0.001
CORES_OF_A_POD = 2
# The autoscaler of the chart: values.yaml and `finetune.scalingBehavior`.
TARGET_WAIT = 2.0
UP_SHARE, UP_PODS, UP_SECONDS = 0.2, 4, 60.0
DOWN_PODS, DOWN_SECONDS = 1, 120.0
STABLE_SECONDS = 600.0
STEP = 15.0
DAY = 86400.0


@dataclass(frozen=True)
class Pod:
    """What a pod with 2 cores does of a model: live sessions at once, and seconds of audio a second."""

    model: str
    live_sessions: int
    audio_per_second: float

    @property
    def planned_sessions(self) -> int:
        """`settings.max_live` of the chart."""
        return math.floor(HEADROOM * self.live_sessions)


PODS = (Pod("small base", 20, 120.0), Pod("shape of wav2vec2-base", 4, 34.6))


def lost_share(servers: int, load: float) -> float:
    """Erlang's formula B: the share of calls that find all of so many servers busy, at a load in mean busy servers."""
    share = 1.0
    for number in range(1, servers + 1):
        share = load * share / (number + load * share)
    return share


def count_live_pods(sessions: float, of_a_pod: int, *, least_busy: bool) -> int:
    """The fewest pods that lose at most MOST_LOST of the sessions, `sessions` being open on average."""
    pods = max(1, math.ceil(sessions / of_a_pod))
    while True:
        lost = lost_share(pods * of_a_pod, sessions) if least_busy else lost_share(of_a_pod, sessions / pods)
        if lost <= MOST_LOST:
            return pods
        pods += 1


def simulate_sessions(sessions: float, pods: int, of_a_pod: int, *, least_busy: bool, count: int, seed: int) -> float:
    """The share of `count` sessions that was lost, played one by one; the first tenth is left out."""
    rng = random.Random(seed)
    busy, ends, now, lost = [0] * pods, list[tuple[float, int]](), 0.0, 0
    for number in range(count):
        now += rng.expovariate(sessions / SESSION_SECONDS)
        while ends and ends[0][0] <= now:
            busy[heapq.heappop(ends)[1]] -= 1
        pod = min(range(pods), key=busy.__getitem__) if least_busy else rng.randrange(pods)
        if busy[pod] < of_a_pod:
            busy[pod] += 1
            heapq.heappush(ends, (now + rng.expovariate(1 / SESSION_SECONDS), pod))
        elif number >= count // 10:
            lost += 1
    return lost / (count - count // 10)


@dataclass(frozen=True)
class Day:
    """A simulated day: recordings in hours, pods in hours and at most, and the waits of recordings in seconds."""

    audio_hours: float
    pod_hours: float
    most_pods: int
    median_wait: float
    wait_of_95_percent: float


class Autoscaler:
    """The chart's HorizontalPodAutoscaler, asked every STEP: pods that work, and those that are coming."""

    def __init__(self, least: int, most: int) -> None:
        """Begin with the least number of pods."""
        self.least, self.most, self.pods = least, most, least
        self._coming = deque[tuple[float, int]]()
        self._wanted = deque[tuple[float, int]]()  # of the last STABLE_SECONDS
        self._asked = deque[tuple[float, int]]()  # of the longer of the two periods

    def step(self, second: float, wait: float) -> None:
        """Change the number of pods by a mean wait; new ones work POD_SECONDS later."""
        while self._coming and self._coming[0][0] <= second:
            self.pods += self._coming.popleft()[1]
        asked = self.pods + sum(number for _, number in self._coming)
        wanted = min(self.most, max(self.least, math.ceil(self.pods * wait / TARGET_WAIT)))
        _keep(self._wanted, second, wanted, STABLE_SECONDS)
        _keep(self._asked, second, asked, max(UP_SECONDS, DOWN_SECONDS))
        if wanted > asked:
            before = self._asked_before(second - UP_SECONDS)
            more = min(wanted, max(before + UP_PODS, math.ceil(before * (1 + UP_SHARE)))) - asked
            if more > 0:
                self._coming.append((second + POD_SECONDS, more))
        else:
            before = self._asked_before(second - DOWN_SECONDS)
            self.pods -= max(
                0, min(self.pods - 1, asked - max(before - DOWN_PODS, *(each for _, each in self._wanted)))
            )

    def _asked_before(self, second: float) -> int:
        return next(number for when, number in self._asked if when >= second)


def _keep(numbers: deque[tuple[float, int]], second: float, number: int, seconds: float) -> None:
    numbers.append((second, number))
    while numbers[0][0] < second - seconds:
        numbers.popleft()


def simulate_day(hours: float, speed: float, least: int, most: int) -> Day:
    """Play the chart's autoscaler against a day of so many hours of audio; `speed` is that of a pod."""
    scaler, waits = Autoscaler(least, most), list[tuple[float, float]]()
    backlog = done = pod_seconds = 0.0
    most_pods, second = least, -4 * 3600.0  # Some hours before, so that the day begins in its swing.
    while second < DAY:
        arrived = hours * 3600 / DAY * STEP * (1 + 0.8 * math.sin(2 * math.pi * (second / DAY - 0.25)))
        capacity = scaler.pods * speed
        computed = min(backlog + arrived, capacity * STEP)
        backlog += arrived - computed
        if second >= 0:
            done, pod_seconds = done + computed, pod_seconds + scaler.pods * STEP
            waits.append((backlog / capacity, arrived))
            most_pods = max(most_pods, scaler.pods)
        scaler.step(second, backlog / capacity)
        second += STEP
    return Day(done / 3600, pod_seconds / 3600, most_pods, _find_share(waits, 0.5), _find_share(waits, 0.95))


def _find_share(waits: list[tuple[float, float]], share: float) -> float:
    """The wait that a share of the audio does not exceed."""
    left = share * sum(audio for _, audio in waits)
    for wait, audio in sorted(waits):
        left -= audio
        if left <= 0:
            return wait
    return max(wait for wait, _ in waits)


def with_spare_zone(pods: int) -> int:
    """So many pods that the others are enough where a zone is lost."""
    return math.ceil(pods * ZONES / (ZONES - 1))


def describe_live(sessions: float, core_hour: float) -> list[str]:
    """A table of Markdown: what live sessions need."""
    lines = [
        "| model | sessions of a pod | pods, least busy | with a spare zone | any | with a spare zone | USD an hour |",
        "|---|---|---|---|---|---|---|",
    ]
    for pod in PODS:
        least, any_ = (count_live_pods(sessions, pod.planned_sessions, least_busy=each) for each in (True, False))
        cost = with_spare_zone(least) * CORES_OF_A_POD * core_hour
        lines.append(
            f"| {pod.model} | {pod.planned_sessions} | {least} | {with_spare_zone(least)} | {any_} | "
            f"{with_spare_zone(any_)} | {cost:.2f} |"
        )
    return lines


def describe_day(hours: float, core_hour: float) -> list[str]:
    """A table of Markdown: what a day of recordings needs, with as many pods all day and with the autoscaler."""
    lines = [
        "| model | pods at the mean | at the peak | autoscaled, most | pod hours | wait, 95 % | USD | USD at peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pod in PODS:
        mean = math.ceil(hours * 3600 / DAY / pod.audio_per_second)
        peak = math.ceil(1.8 * hours * 3600 / DAY / pod.audio_per_second)
        day = simulate_day(hours, pod.audio_per_second, max(2, mean // 8), 2 * peak)
        cost, fixed = (each * CORES_OF_A_POD * core_hour for each in (day.pod_hours, 24 * peak))
        lines.append(
            f"| {pod.model} | {mean} | {peak} | {day.most_pods} | {day.pod_hours:.0f} | "
            f"{day.wait_of_95_percent:.1f} s | {cost:.0f} | {fixed:.0f} |"
        )
    return lines


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=float, default=1000, help="live sessions that are open on average")
    parser.add_argument("--hours", type=float, default=100_000, help="hours of recordings in a day")
    parser.add_argument("--core-hour", type=float, default=0.05, metavar="USD", help="what a core costs for an hour")
    options = parser.parse_args()
    if min(options.sessions, options.hours, options.core_hour) <= 0:
        parser.error("--sessions, --hours and --core-hour are above 0")
    print("\n".join([*describe_live(options.sessions, options.core_hour), ""]))
    print("\n".join(describe_day(options.hours, options.core_hour)))


if __name__ == "__main__":
    main()
