"""The notebooks run in order on the quickstart's data, and their two forms are the same."""

import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "recipes" / "notebooks"
TEXTS = sorted(FOLDER.glob("*.py"))


def list_cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The kind and the source of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("text", TEXTS, ids=lambda file: file.stem)
def test_both_forms_are_the_same_and_hold_no_output(text: Path) -> None:
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    assert list_cells(notebook) == list_cells(jupytext.read(text)), f"run: jupytext --sync {text}"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert "%pip install" in notebook.cells[1].source


@pytest.mark.slow
def test_notebooks_run_and_show_plots_and_players(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER.parent / "quickstart", tmp_path / "quickstart")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    shown = {}
    for text in TEXTS:
        notebook = jupytext.read(text)
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
        kinds = [kind for cell in notebook.cells for each in cell.get("outputs", ()) for kind in each.get("data", ())]
        html = "".join(
            each["data"].get("text/html", "")
            for cell in notebook.cells
            for each in cell.get("outputs", ())
            if "data" in each
        )
        shown[text.stem] = ("image/png" in kinds, "<audio" in html, html)
    assert [name for name, (plots, _, _) in shown.items() if not plots] == []
    assert [name for name, (_, players, _) in shown.items() if not players] == ["2_fine_tune"]
    assert "<iframe" in shown["2_fine_tune"][2] and "<td>WER</td>" in shown["4_errors"][2]
    assert "confidence" in shown["3_transcribe"][2]
