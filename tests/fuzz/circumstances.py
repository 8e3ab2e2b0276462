"""What is drawn beside an input: options of every command, the environment, streams, and what stands where
an output is to go."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from enum import EnumMeta
from pathlib import Path
from typing import Any

import typer.main

from attnprof import cli
from tests.fuzz.dice import Dice
from tests.fuzz.folder_state import state
from tests.fuzz.hostile import TEXTS, storable
from tests.support.command import Done

# Not drawn: what records, what talks to others, what removes, and where an output goes, which is drawn apart.
_NOT_DRAWN = frozenset((
    "--help", "--version", "--remove", "--resume", "--migrate", "--scheduler", "--nsys", "--workers",
    "--timeout", "--output", "--html", "--plot", "--calls",
))  # fmt: skip
STYLE = re.compile("\x1b\\[[0-9;]*m|\x1b\\[\\?25[lh]")  # what our own tables and bars write
COMMANDS = (
    "report", "check", "diff", "export", "doctor", "explain", "predict", "sweep", "gpus", "runs", "import",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "3", "128", "4096", "2147483647", "2147483648", "-2147483649", "9" * 30,
    "9" * 5_000, "nan", "inf", "-inf", "1e999", "1e-999", "0.5", "0x10", "1_000", "\u0663", "", " ",
    "1:128", "128:1", "1:9:0", "1,8,32", "1:99999999",
)  # fmt: skip
WORDS = (
    "h100", "a100", "H200", "flash_attn", "torch", "2.8.3", "9.0", "8.9", "splitkv", "decode", "prefill",
    "kernels", "attention", "none", "mismatch", "fwd", "fwd_kvcache", "bf16", "fp16", "cuda_gpu_kern_sum",
    "nvtx_sum", "steps",
)  # fmt: skip
ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "COLUMNS": ("8", "0", "-1", "x", "9" * 30, "200"), "LINES": ("1", "x"), "NO_COLOR": ("1",),
    "FORCE_COLOR": ("1",), "TERM": ("", "dumb", "nonsense"), "HOME": ("", "/", "/nowhere", "relative"),
    "TMPDIR": ("/nowhere", "/proc"), "TZ": (":::", "Asia/Kolkata"), "LC_ALL": ("C", "xx_YY"),
    "PATH": ("", "/nowhere"), "USER": ("",), "ATTNPROF_GPU": ("a100", "h9000", "x" * 5_000, "\x1b[31m"),
    "ATTNPROF_LIBRARY": ("torch", "x"), "ATTNPROF_VERSION": ("2.5.7", "9" * 5_000, "\n"),
    "ATTNPROF_NSYS": ("/dev/zero", "/proc", "\n"), "MPLCONFIGDIR": ("/proc/x",),
    "SOURCE_DATE_EPOCH": ("x", "9" * 30),
}  # fmt: skip


def drawn_environment(dice: Dice) -> None:
    """Sets some variables of this process, in half of all cases."""
    for _ in range(dice.pick((0, 0, 1, 2, 3))):
        name = dice.pick(sorted(ENVIRONMENT))
        os.environ[name] = dice.pick(ENVIRONMENT[name])


class Failing(io.StringIO):
    """A stream that takes some characters and then no more."""

    def __init__(self, number: int, room: int) -> None:
        super().__init__()
        self.number, self._room, self.failed = number, room, False

    def write(self, text: str) -> int:
        if self.tell() + len(text) > self._room:
            self.failed = True
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


class _Encoded(io.StringIO):
    """A stream of another encoding, as far as writing to it can fail."""

    def write(self, text: str) -> int:
        text.encode("ascii")
        return super().write(text)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn_stream(dice: Dice) -> io.StringIO:
    """Mostly one that takes all; a terminal, one of ASCII alone, a full one, one whose reader has gone."""
    kind = dice.below(14)
    if kind == 0:
        return Failing(errno.ENOSPC, dice.pick((0, 10, 1_000)))
    if kind == 1:
        return Failing(errno.EPIPE, dice.pick((0, 10, 1_000)))
    return Terminal() if kind == 2 else _Encoded() if kind == 3 else io.StringIO()


def drawn_options(dice: Dice, command: str) -> list[str]:
    """Up to four options of a command, most with values of their kind."""
    group: Any = typer.main.get_command(cli.app)
    known = [
        parameter
        for parameter in group.get_command(None, command).params
        if parameter.param_type_name == "option" and not _NOT_DRAWN & set(parameter.opts)
    ]
    drawn: list[str] = []
    for _ in range(dice.pick((0, 1, 1, 2, 3)) if known else 0):
        option = dice.pick(known)
        drawn.append(option.opts[-1])
        if not getattr(option, "is_flag", False):
            drawn.append(_value(dice, option))
    return drawn


def _value(dice: Dice, option: Any) -> str:
    kind = getattr(option, "bare_type", None)  # of typer before 0.20: option.type.choices
    choices = (
        list(kind) if isinstance(kind, EnumMeta) else getattr(getattr(option, "type", None), "choices", ())
    )
    if choices and dice.chance(0.9):
        return str(getattr(value := dice.pick(list(choices)), "value", value))
    if dice.chance(0.1):
        return storable(dice.pick(TEXTS)).replace("\0", "")
    return dice.pick((NUMBERS[:6], NUMBERS[:6], NUMBERS, WORDS, WORDS)[dice.below(5)])


def _nothing(path: Path, source: Path) -> None: ...


def _file(path: Path, source: Path) -> None:
    path.write_text("mine")


def _folder(path: Path, source: Path) -> None:
    path.mkdir()
    (path / "kernels.csv").write_text("mine")
    (path / "run.sh").write_text("mine")


def _fifo(path: Path, source: Path) -> None:
    os.mkfifo(path)


def _link(path: Path, source: Path) -> None:
    (path.parent / "theirs").write_text("mine")
    path.symlink_to("theirs")


def _dangling(path: Path, source: Path) -> None:
    path.symlink_to("nowhere")


def _input_by_link(path: Path, source: Path) -> None:
    path.symlink_to(source)


def _input_by_hard_link(path: Path, source: Path) -> None:
    if source.is_file() and not source.is_symlink():
        path.hardlink_to(source)
    else:
        path.write_text("mine")


def _device(path: Path, source: Path) -> None:
    path.symlink_to("/dev/null")


def _no_parent(path: Path, source: Path) -> None:
    path.parent.rmdir()


def _parent_is_a_file(path: Path, source: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("mine")


OBSTACLES: tuple[Callable[[Path, Path], None], ...] = (
    _nothing, _nothing, _file, _file, _folder, _fifo, _link, _dangling, _input_by_link, _input_by_hard_link,
    _device, _no_parent, _parent_is_a_file,
)  # fmt: skip
_WRITERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("export", ("--to", "perfetto", "-o"), "out.json"),
    ("export", ("--to", "csv", "-o"), "tables"),
    ("export", ("--to", "sqlite", "-o"), "out.db"),
    ("export", ("--to", "parquet", "-o"), "parquet"),
    ("report", ("--html",), "page.html"),
    ("report", ("--plot",), "splits.svg"),
)


def check_an_output(dice: Dice, target: Path, folder: Path, command: Callable[..., Done]) -> str:
    """Writes an output where something stands, or nothing can. Raises AssertionError for what is lost."""
    name, options, ending = dice.pick(_WRITERS)
    obstacle, force = dice.pick(OBSTACLES), dice.chance(0.5)
    place = folder / "place"
    place.mkdir()
    path = place / dice.pick(
        (ending, f"a b {ending}", f"-{ending}", f"$(touch pwned) {ending}", f"\u202e{ending}")
    )
    obstacle(path, target)
    before = _entries(place)
    more = ["-f"] if force and name == "export" else []
    done = command(name, *more, *options, path, target, codes=(0, 2))
    over = obstacle.__name__.strip("_")
    told = f"{name} {' '.join(options)} over {over}, force {force}: exit code {done.code}"
    after = _entries(place)
    ours = {entry for entry in after if entry == path.name or entry.startswith(f"{path.name}/")}
    for entry in before.keys() | after.keys():
        stayed = before.get(entry) == after.get(entry)
        if done.code == 2 or entry not in ours:
            was = f"{entry} is {after.get(entry)}, which was {before.get(entry)}"
            assert stayed, f"{told}, and {was}: {done.err[-300:]}"
    if done.code == 0:
        _require_whole(path, ending, told)
        assert obstacle in (_nothing, _no_parent) or force or name == "report", f"{told}, without -f"
    return f"output {done.code}"


def _entries(folder: Path) -> dict[str, tuple[int, str]]:
    """What stands below a folder, by path: modes and contents, links by their targets."""
    if not folder.is_dir():
        return {".": (folder.lstat().st_mode, folder.read_text())} if folder.exists() else {}
    found = {}
    for path, mode, content in state(folder):
        found[path] = (mode, str((folder / path).readlink()) if stat.S_ISLNK(mode) else content)
    return found


def _require_whole(path: Path, ending: str, told: str) -> None:
    assert path.exists(), f"{told}, and nothing was written"
    assert not path.is_symlink(), f"{told}, through a link"
    if ending.endswith(".json"):
        json.loads(path.read_text(encoding="utf-8"))
    elif ending.endswith(".db"):
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",), told
    elif ending in ("tables", "parquet"):
        assert {"run.json"} < {entry.name for entry in path.iterdir()}, told
    elif ending.endswith(".html"):
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), told
    else:
        assert path.read_text(encoding="utf-8").rstrip().endswith("</svg>"), told
