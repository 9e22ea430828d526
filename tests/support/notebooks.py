"""Pages of the documentation that are notebooks, executed cell by cell in a real kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


def executed(page: Path, folder: Path, then: str = "") -> list[Any]:
    """Return the code cells of a page, with their outputs; everything is written into a folder.

    `then` is run behind the last one, with all that the page has defined. Raises
    ``nbclient.exceptions.CellExecutionError`` with the traceback of the first cell that fails.
    """
    # Reading brings Sphinx along, which no other test needs.
    from myst_nb.core.read import read_myst_markdown_notebook

    notebook = read_myst_markdown_notebook(page.read_text(encoding="utf-8"), add_source_map=False)
    own = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": os.pathsep.join([str(own), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
    )
    if then:
        cell = nbformat.v4.new_code_cell(then)  # type: ignore[no-untyped-call]
        notebook.cells.append(cell)
    client.execute(env=environment)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells: list[Any]) -> str:
    """Return all text that cells show, but for what programs write to standard error."""
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in outputs
        if output.get("name") != "stderr"
    ]
    return "\n".join(texts)


def count_pictures(cells: list[Any]) -> int:
    """Return how many pictures cells show."""
    outputs = [output for cell in cells for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)
