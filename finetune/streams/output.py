"""Writing results, and committing offsets after them: one by one as they are acknowledged, or in transactions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune.errors import UserError
from finetune.streams.connection import Client, describe_failure
from finetune.streams.results import Headers, Record
from finetune.streams.settings import StreamSettings

_LOGGER = logging.getLogger(__name__)
_COMMIT_SECONDS, _TRANSACTION_SECONDS = 1.0, 0.05
_FULL_SECONDS = 0.1
_CALL_SECONDS = 10.0

Partition = tuple[str, int]
Offsets = Sequence[tuple[Partition, int, str]]
"""Partitions with the offset to commit and its metadata."""


@dataclass(eq=False)
class Delivery:
    """A record on its way, the partition it results from, and what to call when it is acknowledged.

    In a transaction `on_acknowledged` comes first, since offsets are in it, too: `on_too_large` may follow, or
    `on_written` when it is committed. `value` is what is sent, None where even the smaller value is too large.
    """

    record: Record
    partition: Partition
    on_acknowledged: Callable[[], object]
    on_too_large: Callable[[], object]
    on_written: Callable[[], object] = lambda: None
    value: bytes | None = None

    def __post_init__(self) -> None:
        self.value = self.record.value

    @property
    def headers(self) -> Headers:
        """The headers of what is sent."""
        is_whole = self.value is self.record.value
        return self.record.headers if is_whole else self.record.smaller_headers or self.record.headers

    def shrink(self) -> None:
        """Take the smaller value, or none, and then call `on_too_large`."""
        smaller = self.record.smaller
        self.value = smaller if smaller is not None and len(smaller) < len(self.value or b"") else None
        if self.value is None:
            self.on_too_large()


class Output(Protocol):
    """Where results go."""

    num_bytes: int

    def send(self, delivery: Delivery) -> None: ...
    def advance(self, offsets: Callable[[], Offsets], *, now: bool = False) -> None: ...
    def release(self, partitions: set[Partition]) -> None: ...
    def flush(self, seconds: float) -> None: ...
    def close(self) -> None: ...


class _Producing:
    """Sends records; one that is too large is sent again without what makes it so, and then given up."""

    def __init__(self, producer: Client, settings: StreamSettings) -> None:
        self._producer, self._settings = producer, settings
        self._failure: UserError | None = None
        self.num_bytes = 0

    def _produce(self, delivery: Delivery) -> None:
        """Send a record as soon as there is room; its delivery is reported to `_report` when `poll` is called."""
        from confluent_kafka import KafkaError, KafkaException

        record = delivery.record
        while (value := delivery.value) is not None:

            def report(error: Any, _: object, size: int = len(value)) -> None:
                self.num_bytes -= size
                self._report(delivery, error)

            try:
                self._producer.produce(
                    record.topic, value, record.key, headers=list(delivery.headers), on_delivery=report
                )
                self.num_bytes += len(value)
                return
            except BufferError:
                self._producer.poll(_FULL_SECONDS)
                self.raise_failure()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                delivery.shrink()

    def _report(self, delivery: Delivery, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error is None:
            self._acknowledge(delivery)
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._handle_large(delivery)
        elif error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self._fail(delivery, error)

    def _acknowledge(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def _handle_large(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def _fail(self, delivery: Delivery, error: Any) -> None:
        self._failure = self._failure or UserError(
            f"Results can't be written to {delivery.record.topic} ({describe_failure(error, self._settings)}): what is "
            "not committed is done again by the next start."
        )

    def raise_failure(self) -> None:
        """Raise UserError where a result could not be written in time."""
        if self._failure:
            raise self._failure

    def flush(self, seconds: float) -> None:
        """Wait until all is acknowledged, but not longer."""
        self._producer.flush(seconds)

    def close(self) -> None:
        """Drop what is not acknowledged."""
        self._producer.purge()
        self._producer.poll(0)


class PlainOutput(_Producing):
    """Results that are acknowledged before their offsets are committed; a crash between them makes doubles."""

    def __init__(self, producer: Client, consumer: Client, settings: StreamSettings) -> None:
        super().__init__(producer, settings)
        self._consumer = consumer
        self._committed: dict[Partition, tuple[int, str]] = {}
        self._next = time.monotonic() + _COMMIT_SECONDS

    def send(self, delivery: Delivery) -> None:
        """Send a record."""
        self._produce(delivery)

    def _acknowledge(self, delivery: Delivery) -> None:
        delivery.on_acknowledged()
        delivery.on_written()

    def _handle_large(self, delivery: Delivery) -> None:
        delivery.shrink()
        self._produce(delivery)

    def advance(self, offsets: Callable[[], Offsets], *, now: bool = False) -> None:
        """Call what was acknowledged, and commit every second, or `now` and until the broker has answered."""
        from confluent_kafka import KafkaException, TopicPartition

        self._producer.poll(0)
        self.raise_failure()
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _COMMIT_SECONDS
        changed = [each for each in offsets() if self._committed.get(each[0]) != each[1:]]
        if not changed:
            return
        committed = [TopicPartition(*partition, offset, metadata) for partition, offset, metadata in changed]
        try:
            answered = self._consumer.commit(offsets=committed, asynchronous=not now)
        except KafkaException as error:  # It is tried again; what is never committed is done again.
            _LOGGER.debug(f"offsets are not committed: {describe_failure(error, self._settings)}")
            return
        self._committed.update({partition: (offset, metadata) for partition, offset, metadata in changed})
        if now:  # Other answers come to `forget_failed`, too, by the consumer's callback.
            self.forget_failed(None, answered)

    def forget_failed(self, error: Any, partitions: Sequence[Any]) -> bool:
        """Commit again what the answer to a commit says has failed; returns whether something has.

        librdkafka has an error for the whole answer only where all of its partitions failed.
        """
        failures = [error] if error is not None else [each.error for each in partitions if each.error]
        for failure in failures:
            _LOGGER.debug(f"offsets are not committed: {describe_failure(failure, self._settings)}")
        if failures:
            self._committed.clear()
        return bool(failures)

    def release(self, partitions: set[Partition]) -> None:
        """Partitions belong to another consumer now."""
        for partition in partitions:
            self._committed.pop(partition, None)


class TransactionalOutput(_Producing):
    """Results and offsets in one transaction: readers with isolation.level=read_committed see both or none."""

    def __init__(self, producer: Client, consumer: Client, settings: StreamSettings) -> None:
        """Fence a previous producer of the same transactional.id; raises UserError where the broker can't do it."""
        from confluent_kafka import KafkaException

        super().__init__(producer, settings)
        self._consumer = consumer
        self._is_open = False
        self._broken: Exception | None = None
        self._sent: list[Delivery] = []  # in the open transaction
        self._oversized: list[Delivery] = []
        self._failing_since: float | None = None
        self._committed: dict[Partition, tuple[int, str]] = {}
        self._next = self._next_empty = time.monotonic()
        try:
            producer.init_transactions(settings.retry_seconds)
        except KafkaException as error:
            raise UserError(
                f"The brokers {settings.brokers} begin no transactions ({describe_failure(error, settings)}): expected "
                "brokers and rights for them, or no --transactions."
            ) from error

    def send(self, delivery: Delivery) -> None:
        """Send a record in the transaction; what depends on it may count on it from now on."""
        self._add(delivery)
        if delivery.value is not None:
            delivery.on_acknowledged()

    def _begin(self) -> None:
        if not self._is_open:
            self._call(self._producer.begin_transaction)
            self._is_open = True

    def _add(self, delivery: Delivery) -> None:
        from confluent_kafka import KafkaError, KafkaException

        self._begin()
        self._sent.append(delivery)
        try:
            self._produce(delivery)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:
                raise
            self._broken = error  # A record before it was refused, and the transaction takes no more.

    def _acknowledge(self, delivery: Delivery) -> None:
        """Nothing: the commit of the transaction says so for all."""

    def _handle_large(self, delivery: Delivery) -> None:
        """The transaction has failed with it: it is made smaller before all its records are sent again."""
        self._oversized.append(delivery)

    def _fail(self, delivery: Delivery, error: Any) -> None:
        """Nothing: the commit of the transaction says what has failed."""
        _LOGGER.debug(f"a result is not written: {describe_failure(error, self._settings)}")

    def advance(self, offsets: Callable[[], Offsets], *, now: bool = False) -> None:
        """Commit what was sent, twenty times a second or `now`; offsets without a record once a second."""
        self._producer.poll(0)
        self.raise_failure()
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _TRANSACTION_SECONDS
        changed = [each for each in offsets() if self._committed.get(each[0]) != each[1:]]
        if self._sent or (changed and (now or time.monotonic() >= self._next_empty)):
            self._next_empty = time.monotonic() + _COMMIT_SECONDS
            self._begin()
            if self._broken:
                self._try_again(self._broken)
            else:
                self._commit(changed)

    def release(self, partitions: set[Partition]) -> None:
        """Partitions belong to another consumer now: what they have in the open transaction is given up."""
        for partition in partitions:
            self._committed.pop(partition, None)
        if any(delivery.partition in partitions for delivery in self._sent):
            self._abort(lambda delivery: delivery.partition not in partitions)

    def _commit(self, changed: Offsets) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        places = [TopicPartition(*partition, offset, metadata) for partition, offset, metadata in changed]
        try:
            if places:
                group = self._consumer.consumer_group_metadata()
                self._producer.send_offsets_to_transaction(places, group, _CALL_SECONDS)
            self._producer.commit_transaction(self._settings.retry_seconds)
        except KafkaException as error:
            inner = error.args[0]
            if inner.fatal() or not (inner.txn_requires_abort() or inner.retriable()):
                raise self._explain(error) from error
            self._try_again(error)
            return
        self._failing_since = None
        written, self._sent, self._is_open = self._sent, [], False
        self._committed.update({partition: (offset, metadata) for partition, offset, metadata in changed})
        for delivery in written:
            if delivery.value is not None:
                delivery.on_written()

    def _try_again(self, error: Exception) -> None:
        """Abort the transaction and send all its records again, for `retry_seconds`."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._settings.retry_seconds:
            raise self._explain(error) from error
        _LOGGER.debug(f"the transaction is done again: {describe_failure(error, self._settings)}")
        self._abort(lambda _: True)

    def _abort(self, keep: Callable[[Delivery], bool]) -> None:
        """Abort the transaction, and send those of its records again that are kept."""
        kept, self._sent = [delivery for delivery in self._sent if keep(delivery)], []
        self._call(lambda: self._producer.abort_transaction(self._settings.retry_seconds))
        self._is_open, self._broken = False, None
        oversized, self._oversized = self._oversized, []
        for delivery in kept:
            if delivery in oversized:
                delivery.shrink()
            if delivery.value is not None:
                self._add(delivery)

    def _call(self, function: Callable[[], object]) -> None:
        from confluent_kafka import KafkaException

        try:
            function()
        except KafkaException as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> UserError:
        return UserError(
            f"A transaction has failed ({describe_failure(error, self._settings)}): what is not committed is "
            "done again by the next start."
        )

    def close(self) -> None:
        """Abort the open transaction, so that no reader waits for it."""
        from confluent_kafka import KafkaException

        if self._is_open:
            try:
                self._producer.abort_transaction(_CALL_SECONDS)
            except KafkaException as error:
                _LOGGER.debug(f"the transaction is not aborted: {describe_failure(error, self._settings)}")
        super().close()
