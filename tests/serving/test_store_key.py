"""A service whose store gets another key from another process."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from serving.test_feedback import add, ask, make_wav

from finetune.feedback.sealing import new_master_key
from finetune.feedback.store import Store

Serve = Callable[..., Any]


def test_a_running_service_takes_another_key(serve: Serve, tmp_path: Path) -> None:
    """Another process changes the key; until it is in the service's key file, what is new is refused with 503."""
    old, new = new_master_key(), new_master_key()
    (tmp_path / "key").write_text(old)
    store = Store.create(tmp_path / "store", master_key=base64.b64decode(old))
    with serve(feedback=tmp_path / "store", feedback_key_file=tmp_path / "key") as address:

        def send(seed: int) -> httpx2.Response:
            return ask(address, "/v1/feedback", None, make_wav("ab", seed), consent="true", hypothesis="ab")

        def count_failures() -> str:
            lines = httpx2.get(f"{address}/metrics").text.splitlines()
            return next(line for line in lines if line.startswith('finetune_feedback_failures_total{reason="key"'))

        first = send(1).json()["id"]
        assert count_failures().endswith(" 0.0")
        store.rotate_key(base64.b64decode(old), base64.b64decode(new), "ann")
        number = add(store, 2, 0.5)
        for answer in (
            send(3),
            ask(address, f"/v1/feedback/{number}"),
            ask(address, f"/v1/feedback/{first}/review", action="accept"),
        ):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "store_key_changed"
            assert "has another key now" in answer.text and str(tmp_path) not in answer.text
            assert answer.headers["retry-after"] == "30"
        assert count_failures().endswith(" 3.0")
        assert ask(address, f"/v1/feedback/{first}").status_code == 200
        (tmp_path / "key").write_text(new)
        assert send(3).json()["is_new"] and ask(address, f"/v1/feedback/{number}").json()["hypotheses"]
        assert ask(address, f"/v1/feedback/{first}/review", action="accept").json()["status"] == "corrected"
    assert store.get(first).text == "ab" and len(store.queue()) == 2
    store.close()
