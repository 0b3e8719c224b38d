"""finetune consume: recordings and live audio from Kafka topics, texts into another."""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.commands import arguments
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.inference.live import LiveTranscriber
    from finetune.streams.settings import StreamSettings

_LOGGER = logging.getLogger(__name__)


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("consume", help="transcribe recordings and live audio that come as messages of Kafka")
    add = parser.add_argument
    add("model", metavar="MODEL", help=arguments.MODEL)
    add("--brokers", required=True, metavar="HOST:PORT", help="brokers to begin with, with commas between")
    add("--topic", required=True, nargs="+", metavar="NAME", help="topics with recordings or live chunks")
    add("--to", required=True, metavar="TOPIC", help="the topic of the results, as JSON")
    add("--group", required=True, metavar="NAME", help="the consumer group, among whose members messages are divided")
    add("--dead-letter", metavar="TOPIC", help="of messages that can't be used (default: that of --to with .dead)")
    add("--transactions", action="store_true", help="write results and offsets in one transaction: no doubles")
    add("--partials", action="store_true", help="also write the partial texts of live sessions")
    add("--config", metavar="FILE", help="properties of librdkafka, such as TLS and SASL, as YAML or name=value lines")
    add("--references", nargs="+", default=[], metavar="PREFIX", help="read recordings at paths and URLs below these")
    add("--max-message-mb", type=_positive, default=25.0, metavar="N", help="the largest recording (default: 25)")
    add("--buffer-mb", type=_positive, default=64.0, metavar="N", help="held before reading pauses (default: 64)")
    add("--max-live", type=int, default=64, metavar="N", help="live sessions at once (default: 64)")
    add(
        "--idle-seconds", type=_positive, default=60.0, metavar="N", help="a silent session ends after it (default: 60)"
    )
    add("--grace-seconds", type=_positive, default=30.0, metavar="N", help="to finish after SIGTERM (default: 30)")
    add("--retry-seconds", type=_positive, default=60.0, metavar="N", help="for brokers without answer (default: 60)")
    add("--metrics-port", type=int, metavar="N", help="serve Prometheus's metrics at this port")
    add("--metrics-host", default="127.0.0.1", metavar="ADDRESS", help="and this address (default: 127.0.0.1)")
    add("--latency", type=float, metavar="SECONDS", help="of a live word until it is stable (default: 0.96)")
    arguments.add_recognition(parser)
    arguments.add_precision(parser, "auto")
    arguments.add_language(parser)
    arguments.add_language_model(parser)
    arguments.add_decoding(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Consume until SIGTERM or SIGINT; returns the exit code."""
    settings = _read_settings(options)
    try:
        import confluent_kafka  # noqa: F401 (is it there?)

        from finetune.streams.consumer import StreamConsumer, check_brokers
        from finetune.streams.metrics import StreamMetrics, serve_metrics
    except ModuleNotFoundError as error:
        raise UserError(f"Kafka needs packages that are not here ({error}): pip install 'finetune[kafka]'.") from error
    check_brokers(settings)
    live = _load(options)
    metrics = StreamMetrics()
    stop_metrics = None
    if options.metrics_port is not None:
        stop_metrics = serve_metrics(metrics, options.metrics_host, options.metrics_port)
    consumer = StreamConsumer(live, settings, metrics)
    before = {number: signal.signal(number, lambda *_: consumer.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _LOGGER.info(f"consuming {', '.join(settings.topics)} as {settings.group}; results go to {settings.results}")
        consumer.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop_metrics:
            stop_metrics()
    return 0


def _read_settings(options: argparse.Namespace) -> StreamSettings:
    from finetune.streams.settings import StreamSettings, read_properties

    if options.max_live < 1:
        raise UserError(f"--max-live is {options.max_live}; expected 1 or more.")
    return StreamSettings(
        brokers=options.brokers,
        topics=tuple(dict.fromkeys(options.topic)),
        results=options.to,
        group=options.group,
        dead_letters=options.dead_letter or f"{options.to}.dead",
        transactions=options.transactions,
        partials=options.partials,
        references=tuple(options.references),
        max_message_bytes=round(options.max_message_mb * 1e6),
        buffer_bytes=round(options.buffer_mb * 1e6),
        max_live=options.max_live,
        idle_seconds=options.idle_seconds,
        grace_seconds=options.grace_seconds,
        retry_seconds=options.retry_seconds,
        properties=read_properties(Path(options.config)) if options.config else {},
    )


def _load(options: argparse.Namespace) -> LiveTranscriber:
    from finetune.inference.live import LiveContext, LiveTranscriber

    return LiveTranscriber(
        options.model,
        context=LiveContext.of_latency(options.latency),
        detector=options.vad,
        device=options.device,
        language_model=options.language_model,
        hotwords={**arguments.read_hotwords(options.hotwords), **dict(options.hotword)},
        decoder=options.decoder,
        beam_width=options.beam_width,
        precision=options.precision,
        language=options.language,
    )


def _positive(text: str) -> float:
    """Parse a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number
