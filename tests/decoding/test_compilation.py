"""Where compiled functions are cached, and when the cached machine code is stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.decoding import compilation

IMPORT = "from finetune.decoding.compilation import compiled\n"
DOUBLE = IMPORT + "@compiled\ndef double(x):\n    return 2 * x\n"
CALLER = (
    IMPORT + "from finetune.decoding.doubled import double\n@compiled\ndef quadruple(x):\n    return 2 * double(x)\n"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package with two compiled functions, each in its own module, of which one calls the other."""
    package = tmp_path / "site" / "finetune" / "decoding"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    shutil.copyfile(compilation.__file__, package / "compilation.py")
    (package / "doubled.py").write_text(DOUBLE)
    (package / "caller.py").write_text(CALLER)
    return package


def run(package: Path, home: Path) -> tuple[int, int]:
    """What `quadruple(10)` returns in a new process, and how often its machine code came from the cache."""
    code = (
        "from finetune.decoding.caller import quadruple\n"
        "print(quadruple(10), sum(quadruple.stats.cache_hits.values()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(package.parents[1]), "HOME": str(home)}
    environment["XDG_CACHE_HOME"] = str(home / "cache")
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, env=environment, cwd=home.parent, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    returned, hits = map(int, finished.stdout.split())
    return returned, hits


@pytest.mark.long
def test_an_edit_of_a_called_function_in_another_module_is_seen_by_the_next_process(
    package: Path, tmp_path: Path
) -> None:
    """The stale machine code is overwritten, also where an edit moves a function to another line."""
    assert run(package, tmp_path / "home") == (40, 0)
    assert run(package, tmp_path / "home") == (40, 1)
    names = sorted(file.name for file in package.rglob("*.nb?"))
    assert [name.partition(".py")[0] for name in names[::2]] == ["caller.quadruple", "doubled.double"]
    for factor in (3, 4):
        moved = "\n" * factor + DOUBLE.replace("2 * x", f"{factor} * x")
        (package / "doubled.py").write_text(moved)
        assert run(package, tmp_path / "home") == (20 * factor, 0)
        assert run(package, tmp_path / "home") == (20 * factor, 1)
        assert sorted(file.name for file in package.rglob("*.nb?")) == names


@pytest.mark.long
def test_compiled_code_is_cached_in_the_users_folder_or_nowhere_where_the_module_is_read_only(
    package: Path, tmp_path: Path
) -> None:
    # A file in the place of the folder cannot be written into, by the superuser either.
    (package / "__pycache__").touch()
    assert run(package, tmp_path / "home") == (40, 0)
    assert run(package, tmp_path / "home") == (40, 1)
    assert any((tmp_path / "home").rglob("*.nbc"))
    (tmp_path / "file").touch()
    for _ in range(2):
        assert run(package, tmp_path / "file") == (40, 0)
