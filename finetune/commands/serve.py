"""finetune serve: a service around fine-tuned models, and the API keys of its clients."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.arguments import Commands
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.serving.settings import Settings

_SCOPES = ("transcribe", "live", "feedback", "admin")


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("serve", help="serve models by HTTP and WebSocket, as OpenAI's client uses them")
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="a model as for transcribe, or NAME=MODEL; or keys add NAME, keys list",
    )
    add = parser.add_argument
    add("--host", metavar="ADDRESS", help="where to listen (default: 127.0.0.1, this machine only)")
    add("--port", type=int, metavar="N", help="default: 8000; 0 is any free one")
    add("--keys", metavar="FILE", help="the keys of clients; see `finetune serve keys`")
    add("--tls-certificate", metavar="FILE", help="of TLS, in PEM")
    add("--tls-key", metavar="FILE", help="its private key, in PEM")
    add("--behind-tls-proxy", action="store_true", default=None, help="a proxy in front of the service ends TLS")
    add("--insecure", action="store_true", default=None, help="listen beyond this machine without keys or TLS")
    add("--allowed-origins", metavar="URL", nargs="+", help="pages of other origins that may use it (default: none)")
    add("--max-file-mb", type=float, metavar="N", help="the largest file (default: 25)")
    add("--max-audio-seconds", type=float, metavar="N", help="the longest recording (default: 7200)")
    add("--max-live", type=int, metavar="N", help="live sessions of a model at once (default: 8)")
    add("--max-connections", type=int, metavar="N", help="connections at once (default: 256)")
    add("--queue", type=int, metavar="N", help="recordings at once; more are answered with 429 (default: 32)")
    add("--idle-seconds", type=float, metavar="N", help="a silent WebSocket is closed after this time (default: 60)")
    add("--grace-seconds", type=float, metavar="N", help="to finish what has begun after SIGTERM (default: 30)")
    add("--latency", type=float, metavar="SECONDS", help="of a live word until it is stable (default: 0.96)")
    add("--device", metavar="NAME", help="cpu, cuda or auto (default)")
    add("--precision", metavar="NAME", help="float32, bfloat16 or auto (default)")
    add("--audit", metavar="FILE", help="append a JSON line for each request: key, route, status; no text, no audio")
    add("--feedback", metavar="STORE", help="take corrections into this store, and serve its review page at /review")
    add("--feedback-key-file", metavar="FILE", help="the key of an encrypted store; see `finetune feedback new-key`")
    add("--config", metavar="FILE", help="a YAML file with these options; also FINETUNE_SERVE_… in the environment")
    keys = parser.add_argument_group("finetune serve keys add NAME | list | revoke NAME [--keys FILE]").add_argument
    keys("--scope", metavar="SCOPES", help=f"what a new key allows: {', '.join(_SCOPES)}, with commas between")
    keys("--requests-per-minute", type=float, metavar="N", help="its rate (default: no limit)")
    keys("--expires", metavar="DATE", help="the day on which it ends, as 2027-12-31 (default: never)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the service until it is stopped, or change its keys."""
    if options.models[:1] == ["keys"]:
        _change_keys(options, options.models[1:])
        return
    if options.scope or options.requests_per_minute or options.expires:
        raise UserError("--scope, --requests-per-minute and --expires are for `finetune serve keys add NAME`.")
    try:
        from finetune.serving.server import serve
        from finetune.serving.service import Service
    except ModuleNotFoundError as error:
        raise UserError(
            f"The service needs packages that are not here ({error}): pip install 'finetune[serve]'."
        ) from error
    import torch

    from finetune.resources.machine import choose_device
    from finetune.serving.service import Service

    settings = _read_settings(options)
    if choose_device().type == "cpu":
        torch.set_num_threads(1)  # Each thread of the engine has one; there are as many as cores.
    serve(Service.load(settings), _announce)


def _change_keys(options: argparse.Namespace, words: list[str]) -> None:
    from finetune.serving.keys import add_key, read_keys, revoke_key

    file = Path(options.keys or "keys.yaml")
    match words:
        case ["add", name]:
            scopes = (options.scope or "").split(",")
            if unknown := [scope for scope in scopes if scope not in _SCOPES]:
                raise UserError(f"--scope has {unknown[0]!r}; expected some of {','.join(_SCOPES)}.")
            text = add_key(file, name, scopes, options.requests_per_minute, _read_day(options.expires))
            print(f"The key of {name} in {file} is shown only now:\n{text}")
        case ["revoke", name]:
            revoke_key(file, name)
            print(f"{name} has no key in {file} any more.")
        case ["list"]:
            for key in read_keys(file):
                expiry = f"until {key.expires:%Y-%m-%d}" if key.expires else "without expiry"
                rate = f", {key.requests_per_minute:g} requests a minute" if key.requests_per_minute else ""
                print(f"{key.name}: {', '.join(key.scopes)}; from {key.created:%Y-%m-%d}, {expiry}{rate}")
        case _:
            raise UserError("Expected `finetune serve keys add NAME --scope …`, `keys list` or `keys revoke NAME`.")


def _read_settings(options: argparse.Namespace) -> Settings:
    from finetune.serving.settings import Settings, load_settings

    given: dict[str, Any] = {name: getattr(options, name) for name in Settings.model_fields}
    config = options.config or os.environ.get("FINETUNE_SERVE_CONFIG")
    return load_settings(
        {name: value for name, value in given.items() if value not in (None, [])}, Path(config) if config else None
    )


def _read_day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise UserError(f"--expires is {text}; expected a day as 2027-12-31.") from error


def _announce(address: str) -> None:
    print(
        f"serving on {address}: open it in a browser, or set OPENAI_BASE_URL={address}/v1", file=sys.stderr, flush=True
    )
