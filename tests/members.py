"""Consumers for tests: in a thread of this process, or forked from a process that has imported everything."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import numpy as np
import pytest
import torch
from brokers import QUICK, Cluster, wait_for
from tones import build_tone_recogniser

from finetune.inference.events import Final
from finetune.inference.formats import describe_event
from finetune.inference.live import LiveTranscriber
from finetune.streams.consumer import StreamConsumer
from finetune.streams.metrics import StreamMetrics
from finetune.streams.settings import StreamSettings

Chunks = list[tuple[str | bytes | None, bytes | None, list[tuple[str, bytes | str | None]]]]


def make_settings(address: str, **options: Any) -> StreamSettings:
    """From `speech` to `texts` as group g."""
    topics = {"topics": ("speech",), "results": "texts", "dead_letters": "texts.dead", "group": "g"}
    properties = {**QUICK, **options.pop("properties", {})}
    return StreamSettings(brokers=address, properties=properties, **{**topics, **options})


class Member:
    """A consumer in a thread, and how it ended."""

    def __init__(self, live: LiveTranscriber, settings: StreamSettings) -> None:
        self.metrics = StreamMetrics()
        self.consumer = StreamConsumer(live, settings, self.metrics)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.consumer.run()
        except BaseException as error:
            self.error = error

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where it has none yet."""
        return self.metrics.registry.get_sample_value(f"finetune_stream_{name}", labels) or 0.0

    def wait_for(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until a condition holds; fails at once where the consumer has ended, and tells its state."""

        def holds() -> bool:
            assert self._thread.is_alive(), self.describe()
            return bool(condition())

        wait_for(holds, seconds, self.describe)

    def describe(self) -> str:
        """What the consumer holds: offsets to commit and committed, units not done, records not acknowledged."""
        consumer, alive = self.consumer, self._thread.is_alive()
        work, output = getattr(consumer, "_work", None), getattr(consumer, "_output", None)
        if work is None or output is None:
            return f"the consumer has not begun; running: {alive}, error: {self.error!r}"
        ledgers = {name: (each.position, each.snapshot(), each.open) for name, each in work._ledgers.items()}
        counts = [
            f"{sample.name}{sample.labels}={sample.value}"
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name.startswith(
                ("finetune_stream_messages_total", "finetune_stream_errors", "finetune_stream_reb")
            )
        ]
        return (
            f"running: {alive}, error: {self.error!r}, position, offset to commit, open units: {ledgers}, committed: "
            f"{output._committed}, sent: {getattr(output, '_sent', None)}, bytes not acknowledged: {output.num_bytes}, "
            f"{' '.join(counts)}"
        )

    def stop(self, seconds: float = 60) -> None:
        """Stop as SIGTERM does; raises what the consumer has raised."""
        self.consumer.stop()
        self.join(seconds)

    def join(self, seconds: float = 60) -> None:
        """Wait for the end; raises what the consumer has raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error


@contextmanager
def joined(cluster: Cluster, live: LiveTranscriber, **options: Any) -> Iterator[Member]:
    """A member of the group; stopped at the end. Where the block fails, what the consumer has raised is told."""
    member = Member(live, make_settings(cluster.address, **options))
    try:
        yield member
    except BaseException as error:
        raise error from member.error
    finally:
        member.consumer.stop()
        member._thread.join(60)


def make_chunks(key: str, samples: np.ndarray, rate: int = 16000, seconds: float = 0.1, ends: bool = True) -> Chunks:
    """The chunks of a live session of 16-bit PCM, numbered, the last one marked."""
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    size = round(seconds * rate) * 2
    parts = [pcm[first : first + size] for first in range(0, len(pcm), size)]
    return [
        (
            key,
            part,
            [("sampling_rate", str(rate)), ("sequence", str(number))]
            + ([("end", "1")] if ends and number == len(parts) - 1 else []),
        )
        for number, part in enumerate(parts)
    ]


def hear(live: LiveTranscriber, samples: np.ndarray) -> list[dict[str, Any]]:
    """The final events of a direct session for 16-bit PCM at 16 kHz."""
    session = live.session(16000)
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    events = session.feed(pcm) + session.finish()
    return [describe_event(event) for event in events if isinstance(event, Final)]


def run_member(address: str, options: dict[str, Any], delay_seconds: float = 0.0) -> None:
    """Consume until SIGTERM; the model takes at least `delay_seconds` for each window."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    recogniser = build_tone_recogniser()
    if delay_seconds:
        compute = recogniser.logits

        def slow(*arguments: Any) -> Any:
            time.sleep(delay_seconds)
            return compute(*arguments)

        recogniser.logits = slow  # type: ignore[method-assign]
    consumer = StreamConsumer(LiveTranscriber(recogniser), make_settings(address, **options), StreamMetrics())
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    consumer.run()


def start_process(cluster: Cluster, delay_seconds: float = 0.0, **options: Any) -> Any:
    """A member in a process of its own, which starts at once: it is forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["members"])
    with pytest.MonkeyPatch.context() as patch:  # Before 3.13 what is preloaded is looked for without sys.path.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    process = context.Process(target=run_member, args=(cluster.address, options, delay_seconds), daemon=True)
    process.start()
    return process
