"""Clients of librdkafka: made from settings, checked before use, and their errors as one sentence each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from finetune.errors import UserError
from finetune.streams.settings import StreamSettings

_LOGGER = logging.getLogger(__name__)
# confluent_kafka's classes; it is imported where they are made.
Client: TypeAlias = Any
_ASK_SECONDS, _CLOSE_SECONDS = 5.0, 30.0


class _Log:
    """Takes what librdkafka logs: details for --verbose, without secrets."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings

    def log(self, level: int, text: str, *values: object) -> None:
        """Log a line."""
        _LOGGER.debug(self._settings.hide_secrets(text % values if values else text))


class Watch:
    """What librdkafka reports beside its calls: refused credentials, and since when no broker answers."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._last = ""
        self._refused = ""
        self._down_since: float | None = None
        self.num_errors = 0

    def on_error(self, error: Any) -> None:
        """The callback of librdkafka."""
        from confluent_kafka import KafkaError

        self.num_errors += 1
        _LOGGER.debug(self._settings.hide_secrets(f"{error.name()}: {error.str()}"))
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or time.monotonic()
            return
        self._last = error.str()
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL):
            self._refused = error.str()

    def raise_refused(self) -> None:
        """Raise UserError where the broker has refused us."""
        if self._refused:
            raise UserError(self._describe(self._refused, "check the user, the password and TLS of --config"))

    def unreachable(self, seconds: float) -> UserError:
        """The error for brokers that have not answered for so long."""
        return UserError(self._describe(self._last or "no answer", f"waited {seconds:g} s for them (--retry-seconds)"))

    def check(self, ask: Callable[[], object]) -> None:
        """Raise UserError where no broker has answered for `retry_seconds`; `ask` makes sure of it."""
        self.raise_refused()
        if self._down_since is None or time.monotonic() - self._down_since < self._settings.retry_seconds:
            return
        seconds, self._down_since = time.monotonic() - self._down_since, None
        try:
            ask()
        except Exception as error:
            raise self.unreachable(round(seconds)) from error

    def is_well(self) -> None:
        """A broker has answered."""
        self._down_since = None

    def _describe(self, reason: str, advice: str) -> str:
        reason = " ".join(self._settings.hide_secrets(reason).split()).rstrip(".")
        return f"The brokers {self._settings.brokers} can't be used ({reason}): {advice}."


def make_consumer(settings: StreamSettings, watch: Watch, **callbacks: Any) -> Client:
    """A consumer that has joined no group yet; raises UserError for properties that can't be used."""
    from confluent_kafka import Consumer

    return _make(Consumer, settings, {**settings.consumer_properties(), "error_cb": watch.on_error, **callbacks})


def make_producer(settings: StreamSettings, watch: Watch, transactional_id: str) -> Client:
    """A producer; raises UserError for properties that can't be used."""
    from confluent_kafka import Producer

    return _make(Producer, settings, {**settings.producer_properties(transactional_id), "error_cb": watch.on_error})


def _make(kind: Any, settings: StreamSettings, properties: dict[str, Any]) -> Client:
    from confluent_kafka import KafkaException

    try:
        return kind(properties, logger=_Log(settings))
    except (KafkaException, TypeError, ValueError) as error:
        said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        reason = settings.hide_secrets(said).rstrip(".")
        raise UserError(f"The properties of --config can't be used: {reason}.") from error


def require_topics(client: Client, settings: StreamSettings, watch: Watch) -> None:
    """Wait for the brokers, and raise UserError where they don't answer, refuse us, or lack a topic."""
    from confluent_kafka import KafkaException

    began = time.monotonic()
    while True:
        left = began + settings.retry_seconds - time.monotonic()
        try:
            found = client.list_topics(timeout=min(_ASK_SECONDS, max(0.1, left))).topics
            break
        except KafkaException as error:
            client.poll(0)  # Calls `Watch.on_error`.
            watch.raise_refused()
            if left < _ASK_SECONDS / 10:
                raise watch.unreachable(settings.retry_seconds) from error
            time.sleep(min(0.2, max(0.0, left)))
    for topic in (*settings.topics, settings.results, settings.dead_letters):
        if topic not in found or found[topic].error is not None:
            raise UserError(f"The brokers {settings.brokers} have no topic {topic}: create it, or check its name.")
    watch.is_well()


def describe_failure(error: Any, settings: StreamSettings) -> str:
    """What an exception or error of librdkafka says, on one line."""
    inner = error.args[0] if isinstance(error, Exception) and error.args else error
    said = inner.str() if hasattr(inner, "str") else str(inner)
    return " ".join(settings.hide_secrets(said).split()).rstrip(".")


def close_consumer(consumer: Client) -> None:
    """Leave the group and close a consumer, within bounded time also where no broker answers."""
    thread = threading.Thread(target=consumer.close, name="closing", daemon=True)
    thread.start()
    thread.join(_CLOSE_SECONDS)
