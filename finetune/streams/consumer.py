"""The loop of a consumer: messages in, results out, offsets after them, until it is told to stop."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from finetune.errors import UserError
from finetune.inference.live import LiveTranscriber
from finetune.streams.connection import (
    Client,
    Watch,
    close_consumer,
    describe_failure,
    make_consumer,
    make_producer,
    require_topics,
)
from finetune.streams.messages import locate
from finetune.streams.metrics import StreamMetrics
from finetune.streams.output import Partition, PlainOutput, TransactionalOutput
from finetune.streams.settings import StreamSettings
from finetune.streams.work import Work

_LOGGER = logging.getLogger(__name__)
# How long the loop waits for a message: results of live sessions are looked for in between.
_IDLE_SECONDS, _LIVE_SECONDS = 0.1, 0.005
# The metrics are renewed so often, and silent sessions are looked for.
_LOOK_SECONDS = 1.0
_FLUSH_SECONDS, _ASK_SECONDS = 10.0, 5.0


def check_brokers(settings: StreamSettings) -> None:
    """Raise UserError where the brokers don't answer in time, refuse us, or lack a topic."""
    watch = Watch(settings)
    client = make_consumer(settings, watch)
    try:
        require_topics(client, settings, watch)
    finally:
        close_consumer(client)


class StreamConsumer:
    """A member of a consumer group; `run` works until `stop` is called, from a signal's handler for example."""

    def __init__(self, live: LiveTranscriber, settings: StreamSettings, metrics: StreamMetrics) -> None:
        self._live, self._settings, self._metrics = live, settings, metrics
        self._watch = Watch(settings)
        self._stopping = self._failed = self._paused = False
        self._caught_up: set[Partition] = set()
        self._begun: dict[Partition, int] = {}  # Where partitions begin of which nothing was read yet.
        self._next_look = 0.0

    def stop(self) -> None:
        """Finish what is begun, commit, and return from `run`."""
        self._stopping = True

    def run(self) -> None:
        """Consume until stopped; raises UserError for what can't be repaired, with nothing lost."""
        from confluent_kafka import KafkaException

        try:
            with self._connect():
                while not self._stopping:
                    self._step()
                self._finish()
        except KafkaException as error:
            reason = describe_failure(error, self._settings)
            raise UserError(
                f"The brokers {self._settings.brokers} don't do what was asked ({reason}): what is not committed is "
                "done again by the next start."
            ) from error

    @contextmanager
    def _connect(self) -> Iterator[None]:
        settings = self._settings
        self._consumer: Client = make_consumer(settings, self._watch, on_commit=self._on_commit)
        producer = make_producer(settings, self._watch, f"{settings.group}-{uuid.uuid4().hex}")
        self._work: Work | None = None
        try:
            require_topics(self._consumer, settings, self._watch)
            kind = TransactionalOutput if settings.transactions else PlainOutput
            self._output: PlainOutput | TransactionalOutput = kind(producer, self._consumer, settings)
            self._work = Work(self._live, settings, self._output, self._metrics)
            self._consumer.subscribe(
                list(settings.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            yield
        except BaseException:
            self._failed = True  # Nothing is waited for.
            raise
        finally:
            if self._work:
                self._work.stop()
            close_consumer(self._consumer)
            if self._work:
                self._output.close()

    def _step(self) -> None:
        """Take a message, if one comes soon, and pass on what is done."""
        assert self._work
        seconds = 0.0 if self._work.has_results else _LIVE_SECONDS if self._work.has_sessions else _IDLE_SECONDS
        message = self._consumer.poll(seconds)
        if message is not None:
            self._take(message)
        self._work.advance()
        self._output.advance(self._work.offsets)
        self._hold_back()
        if time.monotonic() >= self._next_look:
            self._look()

    def _take(self, message: Any) -> None:
        from confluent_kafka import KafkaError

        error = message.error()
        if error is None:
            self._watch.is_well()
            partition = (message.topic(), message.partition())
            self._caught_up.discard(partition)
            if message.offset() > self._begun.pop(partition, message.offset()):
                self._tell_deleted(partition)
            assert self._work
            self._work.take(message, locate(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            self._caught_up.add((message.topic(), message.partition()))
        else:
            self._metrics.error("broker")
            reason = describe_failure(error, self._settings)
            _LOGGER.debug(f"the broker reports: {reason}")
            if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                raise UserError(
                    f"A topic of {', '.join(self._settings.topics)} is no longer there ({reason}): create it."
                )
            refused = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
            if error.fatal() or error.code() in refused:
                raise UserError(
                    f"The brokers {self._settings.brokers} refuse the consumer ({reason}): check its rights."
                )

    def _tell_deleted(self, partition: Partition) -> None:
        """Say where the broker has deleted messages that were not done; gaps may also be marks of transactions."""
        from confluent_kafka import KafkaException, TopicPartition

        assert self._work
        first = self._work.positions()[partition]
        try:
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=_ASK_SECONDS)
        except KafkaException as error:
            _LOGGER.debug(f"the first offset is not known: {describe_failure(error, self._settings)}")
            return
        if first is not None and low > first:
            self._metrics.error("deleted")
            _LOGGER.warning(
                f"{'/'.join(map(str, partition))}: the broker has deleted the messages {first} to {low - 1}, of which "
                "not all were done: its retention is too short for how far this group is behind."
            )

    def _hold_back(self) -> None:
        """Read no further while too much is held, until half of it is done."""
        assert self._work
        full = self._work.fullness
        if full >= 1 and not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
            _LOGGER.debug("paused: the model is slower than the messages come")
        elif full < 0.5 and self._paused and not self._stopping:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _look(self) -> None:
        """Once a second: silent sessions, brokers that do not answer, metrics."""
        assert self._work
        self._next_look = time.monotonic() + _LOOK_SECONDS
        if not self._paused:
            self._work.end_idle(self._caught_up)
        self._watch.check(lambda: self._consumer.list_topics(timeout=_ASK_SECONDS))
        self._work.report(self._paused)
        self._metrics.lag(self._measure_lag())

    def _measure_lag(self) -> dict[Partition, int]:
        from confluent_kafka import KafkaException, TopicPartition

        assert self._work
        behind: dict[Partition, int] = {}
        for partition, position in self._work.positions().items():
            try:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            except KafkaException:
                continue
            if high >= 0 and position is not None:
                behind[partition] = max(0, high - position)
        return behind

    def _finish(self) -> None:
        """Finish what has begun within the time for it."""
        assert self._work
        self._consumer.pause(self._consumer.assignment())
        self._paused = True
        self._work.drop_waiting()
        deadline = time.monotonic() + self._settings.grace_seconds
        while self._work.is_computing and time.monotonic() < deadline:
            self._consumer.poll(_LIVE_SECONDS)  # The group must not take us for dead.
            self._work.advance()
            self._output.advance(self._work.offsets)
        left = self._work.num_computing
        if left:
            _LOGGER.warning(
                f"{left} recordings were not done within {self._settings.grace_seconds:g} s: others do them"
            )
        self._settle()

    def _settle(self) -> None:
        """Wait for the acknowledgement of what is written, and commit."""
        assert self._work
        self._work.advance()
        self._output.flush(_FLUSH_SECONDS)
        self._output.advance(self._work.offsets, now=True)

    def _on_commit(self, error: Any, partitions: list[Any]) -> None:
        if isinstance(self._output, PlainOutput) and self._output.forget_failed(error, partitions):
            self._metrics.error("commit")

    def _on_assign(self, consumer: Client, partitions: list[Any]) -> None:
        """Begin partitions where their previous owner has left them."""
        assert self._work
        committed = consumer.committed(partitions, timeout=self._settings.retry_seconds)
        for each in committed:
            if each.error:
                raise UserError(
                    f"The offsets of {each.topic} can't be read ({describe_failure(each.error, self._settings)})."
                )
            known = each.offset if each.offset >= 0 else None
            self._work.begin_partition((each.topic, each.partition), known, each.metadata)
            if known is not None:
                self._begun[each.topic, each.partition] = known
        if self._settings.is_cooperative:
            consumer.incremental_assign(committed)
        else:
            consumer.assign(committed)
        if self._paused:
            consumer.pause(committed)
        self._metrics.rebalance("given", len(partitions))
        _LOGGER.debug(f"{len(partitions)} partitions are given to this consumer")

    def _on_revoke(self, _: Client, partitions: list[Any]) -> None:
        """Finish what has begun of partitions, commit, and leave their live sessions to the next owner."""
        assert self._work
        gone = _names(partitions)
        if not self._failed:
            self._work.drop_waiting(gone)
            deadline = time.monotonic() + self._settings.revoke_seconds
            while not self._stopping and self._work.computes(gone) and time.monotonic() < deadline:
                self._work.advance()
                self._output.advance(self._work.offsets)
                time.sleep(_LIVE_SECONDS)
            self._settle()
        self._release(gone, "revoked")

    def _on_lost(self, _: Client, partitions: list[Any]) -> None:
        """Partitions belong to others already: nothing of them is committed."""
        self._release(_names(partitions), "lost")

    def _release(self, gone: set[Partition], change: Any) -> None:
        assert self._work
        self._metrics.rebalance(change, len(gone))
        sessions = self._work.end_partitions(gone)
        self._caught_up -= gone
        for partition in gone:
            self._begun.pop(partition, None)
        if not self._failed:
            self._output.release(gone)
        _LOGGER.debug(f"{len(gone)} partitions are {change}, with {sessions} live sessions")


def _names(partitions: Iterable[Any]) -> set[Partition]:
    return {(each.topic, each.partition) for each in partitions}
