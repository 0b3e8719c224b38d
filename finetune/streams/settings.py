"""What a consumer is told: topics, limits, and properties of librdkafka from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import UserError

# A broker takes messages of 1 MiB unless it is told otherwise, with key and headers.
DEAD_LETTER_BYTES = 900_000
# Results and offsets depend on these, or options say them.
_OWN = {
    "bootstrap.servers": "it is --brokers",
    "metadata.broker.list": "it is --brokers",
    "group.id": "it is --group",
    "enable.auto.commit": "offsets are committed after results are acknowledged",
    "enable.auto.offset.store": "offsets are committed after results are acknowledged",
    "enable.idempotence": "results are always written in order and once",
    "acks": "results are always acknowledged by all replicas",
    "request.required.acks": "results are always acknowledged by all replicas",
    "enable.partition.eof": "it is always on",
}
_SECRET_WORDS = ("password", "secret", "token", "oauthbearer.config", ".key", ".pem")
# The consumer holds no more than these before it is asked, and a message of 100 MB must arrive to be refused.
_CONSUMER = {
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "queued.max.messages.kbytes": 16384,
    "fetch.max.bytes": 16777216,
    "receive.message.max.bytes": 536870912,
    "fetch.queue.backoff.ms": 100,
}
# A broker refuses a batch as a whole: with others in it, small results would be too large, too.
_PRODUCER = {"batch.num.messages": 1, "queue.buffering.max.kbytes": 65536, "compression.type": "lz4"}
_TRANSACTION_TIMEOUT_SECONDS, _REVOKE_SECONDS = 60.0, 10.0


@dataclass(frozen=True)
class StreamSettings:
    """Where messages come from and where results go, with the limits in bytes, seconds and numbers."""

    brokers: str
    topics: tuple[str, ...]
    results: str
    group: str
    dead_letters: str
    transactions: bool = False
    partials: bool = False
    references: tuple[str, ...] = ()
    max_message_bytes: int = 25_000_000
    buffer_bytes: int = 64_000_000
    max_live: int = 64
    idle_seconds: float = 60.0
    grace_seconds: float = 30.0
    retry_seconds: float = 60.0
    properties: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if {self.results, self.dead_letters} & set(self.topics):
            raise UserError(
                f"Results go to {self.results} and dead letters to {self.dead_letters}, but one of them is read too: "
                "expected other topics than --topic."
            )

    @property
    def is_cooperative(self) -> bool:
        """Whether a rebalance takes only the partitions that move, and leaves the others with their owner."""
        values = {**_CONSUMER, **self.properties}
        strategy = str(values["partition.assignment.strategy"])
        return strategy.startswith("cooperative") or values.get("group.protocol") == "consumer"

    @property
    def revoke_seconds(self) -> float:
        """How long partitions are kept after they were revoked, for what has begun of them."""
        return min(_REVOKE_SECONDS, float(self.properties.get("max.poll.interval.ms", 300_000)) / 3000)

    def consumer_properties(self) -> dict[str, Any]:
        """The properties of the consumer."""
        return {
            **_CONSUMER,
            **self.properties,
            "bootstrap.servers": self.brokers,
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
        } | ({"isolation.level": "read_committed"} if "isolation.level" not in self.properties else {})

    def producer_properties(self, transactional_id: str) -> dict[str, Any]:
        """The properties of the producer; `transactional_id` is for a member without a name.

        One with a `group.instance.id` ends the transaction that it left open when it was killed.
        """
        properties = {
            **_PRODUCER,
            "message.timeout.ms": round(self.retry_seconds * 1000),
            **{name: value for name, value in self.properties.items() if name != "transactional.id"},
            "bootstrap.servers": self.brokers,
            "enable.idempotence": True,
            "acks": "all",
        }
        if self.transactions:
            milliseconds = round(min(self.retry_seconds / 2, _TRANSACTION_TIMEOUT_SECONDS) * 1000)
            member = self.properties.get("group.instance.id")
            fixed = transactional_id if member is None else f"{self.group}-{member}"
            properties["transactional.id"] = self.properties.get("transactional.id", fixed)
            properties["transaction.timeout.ms"] = self.properties.get("transaction.timeout.ms", milliseconds)
            properties["message.timeout.ms"] = properties["transaction.timeout.ms"]
        return properties

    def hide_secrets(self, text: str) -> str:
        """A text in which values of secret properties are replaced by ***."""
        for name, value in self.properties.items():
            if _is_secret(name) and len(str(value)) > 2:
                text = text.replace(str(value), "***")
        return text


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS) and not name.endswith(".location")


def read_properties(file: Path) -> dict[str, Any]:
    """Properties of librdkafka from a YAML file or from lines of `name=value`; raises UserError, without any value."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not text in UTF-8: expected lines such as `security.protocol: SASL_SSL`."
        ) from error
    values = _parse_yaml(file, text) if file.suffix in (".yaml", ".yml") else _parse_lines(file, text)
    for name, why in _OWN.items():
        if name in values:
            raise UserError(f"{file} sets {name}, which can't be changed: {why}.")
    return values


def _parse_yaml(file: Path, text: str) -> dict[str, Any]:
    expected = "expected lines such as `security.protocol: SASL_SSL`"
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {expected}.") from error
    if not isinstance(values, dict) or not all(isinstance(value, str | int | float) for value in values.values()):
        raise UserError(f"{file} is not a list of properties: {expected}, each with one value.")
    return {str(name): value for name, value in values.items()}


def _parse_lines(file: Path, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        name, found, value = stripped.partition("=")
        if not found:
            raise UserError(f"{file}, line {number}: expected a line such as `security.protocol=SASL_SSL`.")
        values[name.strip()] = value.strip()
    return values
