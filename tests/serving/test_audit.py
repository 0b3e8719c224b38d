"""The audit log on a full disk: requests are answered all the same."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from speech_requests import make_wav, post

from finetune.serving.audit import AuditLog

needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")


def write(log: AuditLog, status: int) -> None:
    log.write(key="ann", address="127.0.0.1", route="GET /", status=status, seconds=0.1)


@needs_devices
def test_a_full_disk_of_the_audit_log_is_logged_once_and_all_is_answered(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(audit=Path("/dev/full")) as address, httpx2.Client() as client:
        assert [client.get(f"{address}/v1/models").status_code for _ in range(20)] == [200] * 20
        assert post(address, make_wav()).json()["text"] == "bad cab"
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"the audit log /dev/full lacks requests from now on: {os.strerror(28)}"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are those of Linux")
def test_a_line_that_was_cut_by_a_full_disk_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    file, (soft, hard) = tmp_path / "audit.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    log = AuditLog(file)
    write(log, 200)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, hard))
        for status in (201, 202):
            write(log, status)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(log, 203)
    log.close()
    first, cut, last = file.read_text(encoding="utf-8").splitlines()
    assert (json.loads(first)["status"], len(cut), json.loads(last)["status"]) == (200, 20, 203)
