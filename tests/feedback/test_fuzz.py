"""Exports of Label Studio with any value in any place: rows are left out, or one sentence; never a fault of ours."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feedback.conftest import make_audio
from feedback.test_label_studio import annotate, make_task, region, whole_text

from finetune.errors import UserError
from finetune.feedback.imports.adding import Terms, add_entries
from finetune.feedback.imports.found_audio import FoundAudio
from finetune.feedback.imports.label_studio import read_export
from finetune.feedback.store import Store

VALUES = [
    None,
    True,
    -1,
    1e400,
    float("nan"),
    "",
    "\0",
    "\ud800",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": {}},
    "../../x",
    "text",
]


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in lists and objects."""
    if path:
        yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from list_places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@pytest.mark.long
def test_any_value_in_any_place(store: Store, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "one.wav").write_bytes(make_audio(0, 1.0))
    named = {"from_name": "transcription", "to_name": "audio"}
    regions = [{**result, **named} for result in region("a", 0.1, 0.5, "alpha")]
    prediction = {"model_version": "v1", "score": 0.5, "result": [whole_text("alfa")]}
    data = {"audio": "one.wav", "speaker": "p1", "domain": "d", "licence": "l", "consent": "c"}
    first = make_task(1, "one.wav", annotate([whole_text("alpha")]), annotate(regions, {"id": 2}), data=data)
    tasks = [{**first, "predictions": [prediction]}]
    random.seed(0)
    places = list(list_places(tasks))
    outcomes = {"used": 0, "left out": 0, "refused": 0}
    for place in places:
        for value in VALUES if "result" not in place else random.sample(VALUES, 5):
            broken = copy.deepcopy(tasks)
            put(broken, place, value)
            try:
                entries = list(read_export(broken, tmp_path / "export.json", FoundAudio(tmp_path / "audio")))
                tally = add_entries(store, entries, Terms(who="ann", consent="all/test"))
            except UserError as error:
                assert "internal error" not in str(error) and "database failed" not in str(error)
                outcomes["refused"] += 1
                continue
            assert tally.rows == len(entries) > 0
            assert not [each for each in tally.left_out if "internal error" in each.reason], (place, value)
            outcomes["used"] += bool(tally.new + tally.known)
            outcomes["left out"] += bool(tally.left_out)
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("value", [{}, [], None, "x", 1])
def test_no_task_at_all(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match="is an export of a project without audio"):
        list(read_export([value], tmp_path / "export.json", FoundAudio(None)))
