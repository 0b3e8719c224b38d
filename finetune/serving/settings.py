"""The settings of a service: from the command line, the environment and a YAML file, in this order."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from finetune.errors import UserError

PREFIX = "FINETUNE_SERVE_"


class Settings(BaseModel):
    """Where a service listens, what it serves, and its limits. Each key is an option, and FINETUNE_SERVE_KEY."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[str] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    keys: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    behind_tls_proxy: bool = False
    insecure: bool = False
    allowed_origins: list[str] = []
    max_file_mb: FiniteFloat = Field(default=25, gt=0)
    max_audio_seconds: float = Field(default=7200, gt=0)
    max_live: int = Field(default=8, ge=0)
    max_connections: int = Field(default=256, ge=1)
    queue: int = Field(default=32, ge=1)
    idle_seconds: float = Field(default=60, gt=0)
    grace_seconds: FiniteFloat = Field(default=30, ge=0)
    latency: float | None = Field(default=None, gt=0)
    device: str = "auto"
    precision: str = "auto"
    audit: Path | None = None
    feedback: Path | None = None
    feedback_key_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def max_file_bytes(self) -> int:
        """The largest file."""
        return int(self.max_file_mb * 1e6)

    def require_safety(self) -> None:
        """Raise UserError where others could connect without keys, or read what is sent, and for half of a pair."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UserError("TLS needs both --tls-certificate and --tls-key.")
        if self.feedback_key_file is not None and self.feedback is None:
            raise UserError("--feedback-key-file is the key of a store, but there is no store: give --feedback STORE.")
        if self.is_local or self.insecure:
            return
        if self.keys is None:
            raise UserError(
                f"Others can connect to {self.host}, but there are no keys: make one with `finetune serve keys add "
                "NAME --scope transcribe` and give --keys FILE, or use --insecure in a network that you trust."
            )
        if self.tls_certificate is None and not self.behind_tls_proxy:
            raise UserError(
                f"Others can connect to {self.host}, but nothing is encrypted: give --tls-certificate and --tls-key, "
                "--behind-tls-proxy where a proxy ends TLS, or --insecure in a network that you trust."
            )


def load_settings(given: Mapping[str, Any], file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Merge the options that were given, the environment and a YAML file; raises UserError with all problems."""
    values = {**_read_file(file), **_read_environment(environment), **given}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        ]
        raise UserError(f"The service can't be started: {'; '.join(problems)}.") from error
    settings.require_safety()
    return settings


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: expected lines such as `port: 8000`.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: found a {type(values).__name__}, expected lines such as `port: 8000`.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of variables; lists are separated by commas."""
    values: dict[str, Any] = {}
    for name, text in environment.items():
        key = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and key != "config":
            values[key] = text.split(",") if key in ("models", "allowed_origins") else text
    return values
