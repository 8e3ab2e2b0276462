"""The rooms of the package: what each folder is for, and which others it may import, written down once.

A folder imports only folders above it in this table, so there is no circle. Imports inside functions and
those for type checking count. docs/architecture.md shows the same table.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "attnprof"
DOCUMENT = ROOT.parent / "docs" / "architecture.md"
DOORS = ("__init__", "__main__", "cli")  # what people import and type: these import what they please
MOST_LOOSE_FILES = 10

# folder -> (what it holds, what it may import); "ground" is the loose files other than DOORS
ROOMS: dict[str, tuple[str, str]] = {
    "safety": ("what anybody may have written: printed and redacted", ""),
    "ground": ("the values that travel, errors, arrays, GPUs", "safety"),
    "files": ("files, written whole and read with limits", "safety ground"),
    "dispatch": ("pure: a call and a GPU to launches, and back; a folder per library", "ground"),
    "machine": ("what is installed and configured here, and its processes", "ground files dispatch"),
    "trace": ("recorded traces, read into one timeline", "safety ground files machine"),
    "calls": ("attention calls as recorded, and as files", "ground files dispatch trace"),
    "check": ("observed against predicted: a verdict per call", "ground dispatch trace calls"),
    "analysis": ("questions asked of a timeline and its checked calls", "ground dispatch trace check"),
    "report": ("text, tables, figures, the page", "safety ground files dispatch trace check analysis"),
    "instrument": ("what is recorded inside the program", "ground machine calls"),
    "workloads": ("the programs that are recorded", "ground machine instrument"),
    "capture": ("recording a program with a profiler", "safety ground machine instrument workloads"),
    "runs": (
        "runs: made, kept, found, opened, exported",
        "safety ground files dispatch machine trace calls check analysis report workloads capture",
    ),
    "inside": (
        "recording from inside a program or a notebook",
        "safety ground files machine instrument workloads capture runs",
    ),
    "doctor": (
        "can this machine record, can this trace be believed",
        "ground dispatch machine trace analysis report runs",
    ),
    "commands": (
        "what a person types: a file per command",
        "safety ground files dispatch machine calls check analysis report workloads capture runs doctor",
    ),
}


def modules() -> dict[str, Path]:
    return {_module(path): path for path in ROOT.rglob("*.py")}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The folder that a module lies in."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return name if (ROOT / name).is_dir() or name in DOORS else "ground"


def imports(source: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "attnprof")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            if (node.module or "").partition(".")[0] == "attnprof":
                wholes = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (whole if whole in known else str(node.module) for whole in wholes)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {
        name: set(imports(path.read_text(encoding="utf-8"), known)) - {name} for name, path in known.items()
    }


def test_every_folder_is_in_the_table_and_the_root_is_nearly_empty() -> None:
    folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.py") if path.parent != ROOT}
    assert folders == set(ROOMS) - {"ground"}
    assert len(list(ROOT.glob("*.py"))) <= MOST_LOOSE_FILES


def test_the_table_goes_one_way() -> None:
    order = list(ROOMS)
    for room, (_, allowed) in ROOMS.items():
        below = order[: order.index(room)]
        assert set(allowed.split()) <= set(below), f"{room} may import only what stands above it"


@pytest.mark.parametrize("room", ROOMS)
def test_a_folder_imports_what_the_table_says(room: str) -> None:
    found = {
        target_room: f"{module} imports {target}"
        for module, targets in graph().items()
        if room_of(module) == room
        for target in sorted(targets)
        if (target_room := room_of(target)) != room
    }
    allowed = set(ROOMS[room][1].split())
    assert not [why for target, why in found.items() if target not in allowed]
    assert allowed <= set(found), "the table allows what nobody needs"


def test_no_module_reaches_itself_through_what_it_imports() -> None:
    left = {name: set(targets) for name, targets in graph().items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_an_import_inside_a_function_or_for_type_checking_counts() -> None:
    source = (
        "import attnprof.model\n"
        "def f() -> None:\n    from attnprof import runs\n    from attnprof.runs.run import Run\n"
        "if TYPE_CHECKING:\n    from attnprof.check import target\n"
    )
    found = {*imports(source, modules())}
    assert found == {
        "attnprof.model",
        "attnprof.runs",
        "attnprof.runs.run",
        "attnprof.check.target",
    }


def test_the_document_shows_the_table() -> None:
    rows = [
        f"| `{room}/` | {what} | {', '.join(allowed.split()) or '-'} |"
        if room != "ground"
        else f"| the root | {what} | {allowed} |"
        for room, (what, allowed) in ROOMS.items()
    ]
    assert "\n".join(rows) in DOCUMENT.read_text(encoding="utf-8")


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in (DOCUMENT, ROOT.parent / "CONTRIBUTING.md"):
        text = document.read_text(encoding="utf-8")
        named = {name for name in re.findall(r"`([\w./-]+/[\w.-]+\.py|[\w]+\.py)`", text) if "/" in name}
        assert named
        for name in named:
            places = (ROOT / name, ROOT.parent / name)
            assert any(place.exists() for place in places), f"{document.name} names {name}"
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (document.parent / link).exists(), f"{document.name} links {link}"


def test_a_stranger_finds_these_by_their_names() -> None:
    """FA3's tile sizes, the reading of NVTX ranges, the lock of a run folder, the wording of a verdict."""
    held = {
        "dispatch/flash_attn3/tiles.py": "def tile_sm90",
        "trace/nvtx_ranges.py": "def read_ranges",
        "runs/folder_lock.py": "flock",
        "check/verdict_wording.py": "MEANINGS",
    }
    for name, holds in held.items():
        assert holds in (ROOT / name).read_text(encoding="utf-8")


def test_no_file_is_long() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
