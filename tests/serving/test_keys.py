"""Keys in a file that people edit."""

from pathlib import Path

import pytest

from finetune.serving.keys import KeyRing, add_key


@pytest.mark.parametrize(("day", "is_valid"), [("2999-12-31", True), ("2020-01-31 12:00:00", False)])
def test_an_expiry_without_a_time_zone_is_in_utc(day: str, is_valid: bool, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    text = add_key(file, "ann", ["transcribe"])
    file.write_text(file.read_text().replace("expires: null", f"expires: {day}"))
    found = KeyRing(file).find(text)
    assert (found is not None and found.name == "ann") is is_valid
