"""Services and reviewers that write at once, and processes that are killed: nothing acknowledged is lost or doubled."""

import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from feedback.conftest import make_audio, make_utterance
from programs import started
from sqlalchemy import func, select

from finetune.feedback.records import Review
from finetune.feedback.schema import HYPOTHESES, REVIEWS, UTTERANCES
from finetune.feedback.store import Store

WRITER = Path(__file__).with_name("writer.py")
MakeStore = Callable[..., Store]


def read_lines(said: str) -> list[tuple[int, int, bool]]:
    """What a writer printed, without a last line that was cut off."""
    lines = [line.split() for line in said.splitlines(keepends=True) if line.endswith("\n")]
    return [(int(number), int(id), is_new == "True") for number, id, is_new in lines]


def review_all(folder: Path, reviewer: str, adding: threading.Event, done: list[tuple[int, str]]) -> None:
    """Give a text to each utterance of the queue, until nobody adds any more and the queue is empty."""
    store = Store(folder)
    while True:
        still_adding = adding.is_set()
        queue = store.queue(10, reviewer)
        for utterance in queue:
            text = utterance.hypotheses[-1].text.replace("heard", "said")
            store.review(utterance.id, Review(reviewer=reviewer, action="edit", text=text))
            done.append((utterance.id, reviewer))
        if not queue and not still_adding:
            break
        if not queue:
            time.sleep(0.02)
    store.close()


def check_writers(store: Store, count: int) -> None:
    """Two services of two threads and four reviewers write at once; then everything is there, once."""
    adding, done = threading.Event(), list[tuple[int, str]]()
    adding.set()
    names = [f"reviewer{number}" for number in range(4)]
    reviewers = [threading.Thread(target=review_all, args=(store.folder, name, adding, done)) for name in names]
    for thread in reviewers:
        thread.start()
    try:
        commands = [[sys.executable, WRITER, store.folder, first, count // 2, 2, "open"] for first in (0, count // 2)]
        with started(commands[0]) as one, started(commands[1]) as other:
            added = read_lines(one.wait()) + read_lines(other.wait())
    finally:
        adding.clear()
        for thread in reviewers:
            thread.join()
    assert sorted(number for number, _, _ in added) == list(range(count))
    assert all(is_new for _, _, is_new in added) and len({id for _, id, _ in added}) == count
    with store.database.read() as connection:
        assert set(connection.execute(select(UTTERANCES.c.id)).scalars()) == {id for _, id, _ in added}
        assert connection.execute(select(func.count()).select_from(HYPOTHESES)).scalar_one() == count
        stored = Counter(connection.execute(select(REVIEWS.c.utterance_id, REVIEWS.c.reviewer)).tuples().all())
    assert stored == Counter(done) and set(stored.values()) == {1}
    assert store.count()["corrected"]["utterances"] == count
    for number, id, _ in added[:: max(1, count // 50)]:
        assert store.get(id).text == f"said {number}" and store.read_audio(id) == make_audio(number)


@pytest.mark.long
def test_services_and_reviewers_write_at_once(make_store: MakeStore) -> None:
    check_writers(make_store(reviewers_wanted=2), 200)


@pytest.mark.slow
def test_services_and_reviewers_write_20_000_times(make_store: MakeStore) -> None:
    check_writers(make_store(reviewers_wanted=2), 7000)


def check_kills(store: Store, times: int) -> None:
    """A writer is killed at random moments; what it acknowledged is there, and what is there is whole."""
    random.seed(0)
    acknowledged: dict[int, int] = {}
    for turn in range(times):
        first = 10_000 * turn
        with started([sys.executable, WRITER, store.folder, first, 10_000, 2, "corrected"]) as writer:
            writer.wait_for(lambda writer=writer: "\n" in writer.said())
            time.sleep(random.uniform(0, 0.3))
            writer.signal_all(signal.SIGKILL)
            writer.process.wait()
            added = read_lines(writer.said())
        assert added
        acknowledged |= {number: id for number, id, _ in added}
        opened = Store(store.folder)
        for number, id, _ in added:
            utterance = opened.get(id)
            assert (utterance.status, utterance.text) == ("corrected", f"corrected {number}")
            assert opened.read_audio(id) == make_audio(number)
        opened.close()
    found = list(store.iterate_corrected())
    assert {utterance.id for utterance in found} >= set(acknowledged.values())
    # At most one was on its way in each of two threads.
    assert len(found) <= len(acknowledged) + 2 * times
    for utterance in found:
        assert len(store.get(utterance.id).hypotheses) == 1 and store.read_audio(utterance.id)


def test_killed_writers_lose_nothing_that_was_acknowledged(make_store: MakeStore) -> None:
    check_kills(make_store(), 6)


@pytest.mark.slow
def test_writers_killed_thirty_times_lose_nothing(make_store: MakeStore) -> None:
    check_kills(make_store(), 30)


def add_at_once(store: Store, threads: int, rounds: int) -> list[Exception]:
    """Threads add the same audio at the same moment; returns their errors."""
    errors: list[Exception] = []
    together = threading.Barrier(threads)

    def add() -> None:
        for number in range(rounds):
            together.wait()
            try:
                store.add(make_utterance(number, "heard"), "service")
            except Exception as error:
                errors.append(error)

    running = [threading.Thread(target=add) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return errors


def test_the_same_audio_from_everywhere_at_once_is_one_utterance(
    make_store: MakeStore,
) -> None:
    store = make_store()
    errors = add_at_once(store, 6, 20)
    assert store.count()["open"]["utterances"] == 20
    with store.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(HYPOTHESES)).scalar_one() == 20
    assert errors == []
