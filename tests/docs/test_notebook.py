"""The example notebook runs from its first cell to its last, on a real stack."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.conftest import Stack
from tests.docs.shell_blocks import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "flights.ipynb"


@pytest.mark.connected
def test_the_notebook_runs(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its cells print is what its texts say."""
    for name in list(os.environ):
        if name.startswith("TIDEMILL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEMILL_HOME", str(stack.home))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=90, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in book.cells
        for output in cell.get("outputs", [])
    )
    assert "1 of 61 would become dead letters; none was sent" in told
    assert "60 answers; go on later from {0: " in told
    assert "predictions in the first run, then Prediction(event_id=" in told
    assert "came_true" in told


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would be somebody's old figures, and megabytes in every clone."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert NOTEBOOK.stat().st_size < 20_000
    for cell in book.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
