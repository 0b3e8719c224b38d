"""Outputs and a client that is made to fail: what is committed again, and what counts as written."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from members import make_settings

from finetune.inference.live import LiveTranscriber
from finetune.inference.transcript import Transcript
from finetune.streams import output
from finetune.streams.messages import Place, Recording, Rejected
from finetune.streams.metrics import StreamMetrics
from finetune.streams.output import Delivery, PlainOutput, TransactionalOutput
from finetune.streams.recordings import Job, Outcome
from finetune.streams.results import Record, write_dead_letter, write_end
from finetune.streams.work import Work

OFFSETS = [(("speech", 0), 5, "ft1 0"), (("speech", 1), 7, "ft1 0")]


class FakeClient:
    """Takes all calls of a producer and of a consumer, and keeps their names; records above `limit` are refused."""

    def __init__(self, limit: int = 1000) -> None:
        self.calls: list[str] = []
        self.commits: list[list[tuple[int, int]]] = []
        self.limit, self.failing, self.aborting = limit, False, False

    def commit(self, offsets: list[Any], asynchronous: bool) -> list[Any]:
        self.commits.append([(each.partition, each.offset) for each in offsets])
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if self.failing else None
        return [SimpleNamespace(error=None), SimpleNamespace(error=error)]

    def produce(self, topic: str, value: bytes, *_: Any, **__: Any) -> None:
        if self.aborting:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.calls.append("produce")
        if len(value) > self.limit:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


def test_a_partition_whose_commit_failed_is_committed_again() -> None:
    client = FakeClient()
    written = PlainOutput(client, client, make_settings("h:1"))
    written.advance(lambda: OFFSETS, now=True)
    written.advance(lambda: OFFSETS, now=True)
    assert client.commits == [[(0, 5), (1, 7)]]
    good, bad = SimpleNamespace(error=None), SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert not written.forget_failed(None, [good, good])
    assert written.forget_failed(None, [good, bad])
    client.failing = True
    written.advance(lambda: OFFSETS, now=True)
    written.advance(lambda: OFFSETS, now=True)
    assert client.commits == [[(0, 5), (1, 7)]] * 3
    assert written.forget_failed(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), [])


def test_a_failed_commit_of_one_partition_is_counted() -> None:
    from finetune.streams.consumer import StreamConsumer

    metrics, client = StreamMetrics(), FakeClient()
    consumer = StreamConsumer(None, make_settings("h:1"), metrics)  # type: ignore[arg-type]
    consumer._output = PlainOutput(client, client, make_settings("h:1"))
    consumer._on_commit(None, [SimpleNamespace(error=None)])
    assert metrics.registry.get_sample_value("finetune_stream_errors_total", {"reason": "commit"}) is None
    failure = KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE)
    consumer._on_commit(None, [SimpleNamespace(error=None), SimpleNamespace(error=failure)])
    assert metrics.registry.get_sample_value("finetune_stream_errors_total", {"reason": "commit"}) == 1


def test_offsets_without_a_record_are_committed_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    client, now = FakeClient(), 100.0
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now))
    written = TransactionalOutput(client, client, make_settings("h:1", transactions=True))

    def count(offset: int) -> int:
        written.advance(lambda: [(("speech", 0), offset, "")])
        return client.calls.count("commit_transaction")

    assert count(1) == 1
    now += 0.5
    assert count(2) == 1
    now += 0.6
    assert count(2) == 2
    now += 5
    assert count(2) == 2 and client.calls.count("begin_transaction") == 2


@pytest.mark.parametrize("kind", [PlainOutput, TransactionalOutput])
def test_a_record_that_the_client_refuses_is_given_up_and_not_acknowledged(kind: Any) -> None:
    client = FakeClient(limit=10)
    written = kind(client, client, make_settings("h:1", transactions=True))
    said: list[str] = []
    record = Record("texts", None, bytes(100), [], smaller=bytes(50))
    delivery = Delivery(record, ("speech", 0), lambda: said.append("written"), lambda: said.append("too large"))
    written.send(delivery)
    written.advance(lambda: OFFSETS, now=True)
    assert said == ["too large"]


def test_records_behind_a_refused_one_are_sent_again_in_the_next_transaction() -> None:
    client = FakeClient()
    written = TransactionalOutput(client, client, make_settings("h:1", transactions=True))
    for number in range(2):
        client.aborting = number == 1  # librdkafka takes no more from when the broker has refused the first.
        written.send(Delivery(Record("texts", None, b"a", []), ("speech", number), lambda: None, lambda: None))
    client.aborting = False
    written.advance(lambda: OFFSETS, now=True)
    written.advance(lambda: OFFSETS, now=True)
    assert client.calls[1:] == [
        *("begin_transaction", "produce", "poll", "abort_transaction"),
        *("begin_transaction", "produce", "produce", "poll"),
        *("consumer_group_metadata", "send_offsets_to_transaction", "commit_transaction"),
    ]


@pytest.mark.parametrize("kind", [PlainOutput, TransactionalOutput])
def test_a_dead_letter_that_became_a_reference_says_so(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent = FakeClient(limit=100), []
    take = client.produce
    monkeypatch.setattr(client, "produce", lambda *given, **named: (take(*given), sent.append((given[1], named))))
    message = SimpleNamespace(value=lambda: bytes(500), headers=lambda: [("mine", b"1")])
    place = Place("speech", 0, 7, None)
    record = write_dead_letter("texts.dead", message, place, Rejected("audio", "no audio"), 900_000)
    written = kind(client, client, make_settings("h:1", transactions=True))
    written.send(Delivery(record, ("speech", 0), lambda: None, lambda: None))
    [(value, named)] = sent
    found = dict(named["headers"])
    assert json.loads(value) == {"topic": "speech", "partition": 0, "offset": 7}
    assert (found["mine"], found["finetune-value"]) == (b"1", b"reference")


class LateClient(FakeClient):
    """Takes all records, and tells when it is asked that those above the limit are refused; the commit fails then."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.reports: list[Any] = []
        self.topics: list[str] = []
        self.broken = False

    def produce(self, topic: str, value: bytes, *_: Any, on_delivery: Any, **__: Any) -> None:
        large = len(value) > self.limit
        self.broken |= large
        self.topics.append(topic)
        self.reports.append(lambda: on_delivery(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if large else None, None))

    def poll(self, _: float) -> None:
        reports, self.reports = self.reports, []
        for report in reports:
            report()

    def commit_transaction(self, _: float) -> None:
        if self.broken:
            self.broken = False
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "", False, False, True))


def test_a_result_that_is_refused_late_in_its_transaction_is_counted_once(live: LiveTranscriber) -> None:
    metrics, client = StreamMetrics(), LateClient(limit=150)
    settings = make_settings("h:1", transactions=True)
    written = TransactionalOutput(client, client, settings)
    work = Work(live, settings, written, metrics)
    work.begin_partition(("speech", 0), None, None)
    place, unit = Place("speech", 0, 7, None, 1), work._ledgers["speech", 0].begin(7)
    message = SimpleNamespace(value=lambda: b"", headers=list)
    job = Job(place, unit, Recording(b""), message)
    try:
        work._write_outcome(Outcome(job, Transcript((), 200.0)))
        for _ in range(4):
            written._next = 0.0
            written.advance(work.offsets)
    finally:
        work.stop()
    counts = {
        outcome: metrics.registry.get_sample_value(
            "finetune_stream_messages_total", {"kind": "recording", "outcome": outcome}
        )
        for outcome in ("result", "dead_letter")
    }
    assert client.topics == ["texts", "texts.dead"] and not work._ledgers["speech", 0].open
    assert counts == {"result": None, "dead_letter": 1}
    assert metrics.registry.get_sample_value("finetune_stream_seconds_count") == 0


def test_the_text_of_a_session_has_the_spaces_of_its_script() -> None:
    def join(*texts: str) -> str:
        value = json.loads(write_end("texts", Place("speech", 0, 7, b"a", 1), texts, "end", None).value)
        return str(value["text"])

    assert join("bad cab", "", "add") == "bad cab add"
    assert join("你好", "", "我们", "ok", "再见") == "你好我们 ok 再见"
    assert join("สวัสดี", "ครับ") == "สวัสดี ครับ"  # Thai has spaces between phrases.
