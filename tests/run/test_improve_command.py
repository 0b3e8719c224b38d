"""finetune improve and models: from corrections in a store to another champion, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.cli import main
from finetune.feedback.records import NewUtterance
from finetune.feedback.store import Store
from finetune.feedback.versions import Versions
from finetune.files import write_text

from .conftest import NEW, SAMPLING_RATE, WORDS, speak


def fill(store: Store, number: int) -> None:
    """Corrections of thirty speakers, in tones that the champion does not know."""
    rng = np.random.default_rng(7)
    for each in range(number):
        words = " ".join(rng.choice(WORDS, size=1 + each % 3))
        file = store.folder / "spoken.wav"
        soundfile.write(file, speak(words, NEW, rng), SAMPLING_RATE)
        seconds = soundfile.info(file).duration
        details: dict[str, Any] = {"source": "test", "consent": "all/test", "speaker": f"speaker {each % 30}"}
        store.add(NewUtterance(audio=file.read_bytes(), suffix=".wav", seconds=seconds, **details), "ann", words)
    (store.folder / "spoken.wav").unlink()


@pytest.mark.long
def test_corrections_become_a_champion_and_can_be_rolled_back(
    champion: Path, improve_recipe: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.create(tmp_path / "store", test_share=0.3, validation_share=0.2)
    place, recipe = str(store.folder), tmp_path / "recipe.yaml"
    write_text(recipe, improve_recipe().to_yaml())
    assert main(["models", place, "add", str(champion), "--name", "first"]) == 0
    assert main(["improve", place, str(recipe)]) == 2
    assert "no champion yet" in capsys.readouterr().err
    assert main(["models", place, "promote", "first"]) == 0
    assert main(["improve", place, str(recipe), "--min-corrections", "5"]) == 0
    assert "0 new corrections" in capsys.readouterr().out
    fill(store, 120)
    command = ["improve", place, str(recipe), "--min-corrections", "100", "--margin", "1", "--promote"]
    assert main(command) == 0
    versions = Versions(store)
    found = versions.get("version-001")
    assert (found.parent, found.snapshot) == ("first", "version-001")
    checks = {check["name"]: check["passed"] for check in found.gate["checks"]}
    assert checks["corrections better"] and checks["parity with Transformers"] and checks["size"]
    if found.gate["passed"]:  # Times of a tiny model are chance.
        assert versions.champion == "version-001"
    else:
        assert list(checks.values()).count(False) == 1 and not checks["speed"] and versions.champion == "first"
        assert main(["models", place, "promote", "version-001", "--force"]) == 0
    assert (store.folder / "improvements" / "version-001" / "report.html").is_file()
    capsys.readouterr()
    assert main(["models", place, "list"]) == 0
    assert "version-001 *" in capsys.readouterr().out
    assert main(command) == 0
    assert "0 new corrections" in capsys.readouterr().out
    assert main(["models", place, "rollback"]) == 0 and versions.champion == "first"
    assert main(["models", place, "show", "version-001"]) == 0
    assert "corrections better" in capsys.readouterr().out
