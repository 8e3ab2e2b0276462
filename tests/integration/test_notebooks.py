"""The notebooks as they lie in the repository; that they run is checked by executing them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import TESTS

FOLDER = TESTS.parent / "notebooks"
NAMES = ("01_explore_a_run", "02_when_does_it_split", "03_your_trace", "04_packed_sequences")
MOST_LINES = 40
MAGICS = ("%matplotlib", "%load_ext attnprof", "%%attnprof")


@pytest.fixture(params=NAMES)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def sources(notebook: Any, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_these_are_all_the_notebooks() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


def test_a_notebook_is_valid_and_holds_no_output(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


def test_a_notebook_explains_itself(notebook: Any) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    words = sum(len(text.split()) for text in sources(notebook, "markdown"))
    assert words > 120
    assert sum(text.count("\n## ") + text.startswith("## ") for text in sources(notebook, "markdown")) >= 3


def test_cells_are_short_python_that_needs_no_shell_and_no_absolute_path(notebook: Any) -> None:
    for source in sources(notebook, "code"):
        lines = [line for line in source.splitlines() if not line.startswith(MAGICS)]
        assert len(lines) <= MOST_LINES
        ast.parse("\n".join(lines))  # neither ! nor another magic
        assert not re.search(r"[\"'](/|~|[A-Z]:\\)\w", source)


def test_the_files_a_notebook_names_are_in_the_repository(notebook: Any) -> None:
    text = "\n".join(sources(notebook, "code"))
    data = FOLDER / "../tests/data/traces"
    named = re.findall(r"[\w.\-]+\.(?:sqlite|json)\.gz", text)
    assert all((data / name).exists() for name in named), named
    for path in re.findall(r"[\"'](\.\./[\w./\-]+)[\"']", text):
        assert (FOLDER / path).exists(), path


def test_notebooks_name_only_notebooks_there_are() -> None:
    for path in Path(FOLDER).glob("*.ipynb"):
        text = "\n".join(sources(nbformat.read(path, as_version=4), "markdown"))
        assert set(re.findall(r"`(\d\d_\w+)`", text)) <= set(NAMES)
