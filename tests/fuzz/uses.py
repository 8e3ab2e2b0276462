"""What a user does with a file, and what must hold of everything that comes out."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from time import process_time
from xml.etree import ElementTree

from attnprof.errors import AttnprofError
from attnprof.report.summary import summarise
from attnprof.runs.run import load
from tests.fuzz.circumstances import (
    COMMANDS,
    STYLE,
    Failing,
    Terminal,
    check_an_output,
    drawn_environment,
    drawn_options,
    drawn_stream,
)
from tests.fuzz.dice import Dice
from tests.fuzz.subjects import CONFIG, RUNS, Kind
from tests.support.command import Done, run_with

# What moves a cursor, hides or reorders text, or cannot be encoded; a line may end and have tabs.
_UNPRINTABLE = re.compile("[^\n\t\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]")
_TAGS = frozenset(
    (
        "html", "head", "meta", "link", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3", "nav",
        "main", "section", "strong",
        "dl", "div", "dt", "dd", "span", "svg", "g", "defs", "pattern", "rect", "path",
        "line", "text", "ul", "ol", "li", "code", "table", "thead", "tbody", "tr", "th", "td", "form",
        "label", "select", "option", "input", "noscript", "button", "details", "summary", "kbd", "canvas",
        "footer", "script",
    )
)  # fmt: skip


_JSON, _ROWS = "application/json", "application/octet-stream"
_SCRIPTS = ([_JSON, ""], [_JSON, _ROWS, _JSON, ""])  # with no kernel to draw, and with some
LIMIT_S = 10  # of processor time, for each thing that is done with an input
LONGEST = [0.0]  # seconds, in this process
STREAMS: list[Callable[[], io.StringIO]] = [io.StringIO, io.StringIO]  # how stdout and stderr are made


class WrongError(AssertionError):
    """Something came out that may not."""


@dataclass(frozen=True)
class Place:
    """Where an input lies: ``target`` is what a user names, ``out`` is empty, ``whole`` a good trace."""

    folder: Path
    target: Path
    out: Path
    whole: Path


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Raises WrongError where the block takes too long; the longest is kept."""
    began = process_time()
    yield
    seconds = process_time() - began
    LONGEST[0] = max(LONGEST[0], seconds)
    if seconds > LIMIT_S:
        raise WrongError(f"{what} took {seconds:.1f} s")


def ask(place: Place) -> str:
    """ "result", or the kind of AttnprofError, of load, check and summary. Anything else is raised."""
    try:
        with _timed("asking"):
            run = load(place.target)
            summarise(run.recording, run.check())
    except AttnprofError as error:
        if not error.message or "\n" in error.message:
            raise WrongError(f"no one-line message: {error.message!r}") from error
        return type(error).__name__
    return "result"


Use = Callable[[Dice, Place], str]


def command(*arguments: str | Path, codes: tuple[int, ...] = (0, 1, 2, 3)) -> Done:
    """Runs attnprof; it ends as a command does that works, or that says in one error why it does not."""
    out, err = STREAMS[0](), STREAMS[1]()
    with _timed(" ".join(map(str, arguments))):
        done = run_with(out, err, *map(str, arguments))
    if isinstance(out, Failing) and out.failed:
        if done.code != (141 if out.number == errno.EPIPE else 2):
            raise WrongError(
                f"exit code {done.code} of {arguments}, whose output found no room: {done.err[-300:]}"
            )
        return done
    if done.code not in codes:
        raise WrongError(f"exit code {done.code} of {arguments}: {done.err[-500:]}")
    for made, text in ((out, done.out), (err, done.err)):
        stream = STYLE.sub("", text) if isinstance(made, Terminal) else text
        if found := _UNPRINTABLE.search(stream):
            around = stream[max(0, found.start() - 40) : found.end() + 20]
            raise WrongError(f"{found.group()!r} reaches the terminal of {arguments}: {around!r}")
    if isinstance(err, Failing) and err.failed:
        return done
    errors = re.findall(r"^error: ", done.err, re.MULTILINE)
    if len(errors) > 1 or (done.code == 2 and not errors and "Usage:" not in done.err):
        raise WrongError(f"{len(errors)} error lines of {arguments}: {done.err[-500:]}")
    return done


def _report(dice: Dice, place: Place) -> str:
    return f"report {command('report', place.target).code}"


def _report_json(dice: Dice, place: Place) -> str:
    name = dice.pick(("report", "check"))
    done = command(name, place.target, "--format", "json")
    if done.out:
        json.loads(done.out, parse_constant=_no_constant)
    return f"{name} json {done.code}"


def _no_constant(name: str) -> float:
    raise WrongError(f"{name} is no JSON")


def _report_text(dice: Dice, place: Place) -> str:
    name, form = dice.pick(("report", "check")), dice.pick(("md", "csv"))
    done = command(name, place.target, "--format", form)
    if form == "csv":
        widths = {len(row) for row in csv.reader(io.StringIO(done.out, newline=""))}
        if len(widths) > 1:
            raise WrongError(f"CSV rows of {sorted(widths)} fields")
    return f"{name} {form} {done.code}"


def _check(dice: Dice, place: Place) -> str:
    return f"check {command('check', place.target, '--gpu', 'h100').code}"


def _page(dice: Dice, place: Place) -> str:
    path = place.out / "page.html"
    done = command("report", place.target, "--html", path)
    if path.exists():
        check_page(path.read_text(encoding="utf-8"))
    elif done.code == 0:
        raise WrongError("no page was written")
    return f"html {done.code}"


def _import(dice: Dice, place: Place) -> str:
    done = command("import", place.target, "-o", "kept")
    left = sorted(entry.name for entry in (place.out / RUNS).glob("*"))
    if left != (["kept"] if done.code == 0 else []):
        raise WrongError(f"import ended with {done.code} and left {left}")
    if done.code == 0:
        check_database(load("kept").database)
        again = command("check", "kept").code
        if command("check", place.target).code != again:
            raise WrongError("the imported run is judged otherwise than the trace")
        command("runs", codes=(0,))
    return f"import {done.code}"


def _export(dice: Dice, place: Place) -> str:
    to = dice.pick(("perfetto", "perfetto", "csv", "sqlite", "parquet"))
    path = place.out / "exported"
    done = command("export", place.target, "--to", to, "-o", path)
    if done.code == 0 and to == "perfetto":
        json.loads(path.read_text(encoding="utf-8"))
    if done.code == 0 and to == "sqlite":
        check_database(path)
    left = [entry.name for entry in place.out.iterdir() if entry.name.startswith(".")]
    if left or path.exists() != (done.code == 0):
        raise WrongError(f"export ended with {done.code} and left {left}")
    return f"export {to} {done.code}"


def _nsys_report(dice: Dice, place: Place) -> str:
    names = ("nvtx_gpu_proj_trace", "nvtx_kern_sum", "cuda_gpu_kern_sum", "cuda_gpu_trace")
    form = dice.pick(("csv", "table", "json", "md"))
    done = command("report", place.target, "--report", dice.pick(names), "--format", form)
    if form == "json" and done.out:
        json.loads(done.out, parse_constant=_no_constant)
    return f"nsys report {done.code}"


def _doctor(dice: Dice, place: Place) -> str:
    return f"doctor {command('doctor', place.target).code}"


def _diff(dice: Dice, place: Place) -> str:
    sides = (place.target, place.whole) if dice.chance(0.5) else (place.whole, place.target)
    done = command("diff", *sides, "--format", form := dice.pick(("table", "json", "csv", "md")))
    if form == "json" and done.out:
        json.loads(done.out, parse_constant=_no_constant)
    return f"diff {done.code}"


def _plot(dice: Dice, place: Place) -> str:
    path = place.out / "figure.svg"
    figure = dice.pick(("splits", "step", "phases", "share"))
    done = command("report", place.target, "--plot", path, "--figure", figure)
    if path.exists():
        ElementTree.parse(path)
    return f"plot {done.code}"


def _ranks(dice: Dice, place: Place) -> str:
    job = place.out / "job"
    job.mkdir()
    (job / "rank0.sqlite").symlink_to(place.whole)
    (job / f"rank1{''.join(place.target.suffixes[-1:])}").symlink_to(place.target)
    return f"ranks {command('report', job, '--workers', '1').code}"


def _runs(dice: Dice, place: Place) -> str:
    os.environ["ATTNPROF_RUNS"] = str(place.folder / RUNS)
    done = command("runs", "--format", dice.pick(("table", "json", "csv")), codes=(0, 2))
    return f"runs {done.code}"


def _predict(dice: Dice, place: Place) -> str:
    done = command("predict", "--calls", place.target, "--gpu", "h100", codes=(0, 2))
    for line in done.out.splitlines():
        json.loads(line)
    return "result" if done.code == 0 else "UsageError"


def _configured(dice: Dice, place: Place) -> str:
    os.environ.pop("ATTNPROF_RUNS", None)
    os.chdir(place.folder)
    one = dice.pick(
        (("predict", "--seqlen-k", "128"), ("runs",), ("gpus",), ("explain", "--seqlen-k", "4096"))
    )
    done = command(*one, codes=(0, 2))
    return "result" if done.code == 0 else "ConfigError"


def _with_options(dice: Dice, place: Place) -> str:
    """Any command with any options, in any environment, to any streams."""
    name = dice.pick(COMMANDS)
    drawn_environment(dice)
    STREAMS[:] = [lambda: drawn_stream(dice), lambda: drawn_stream(dice)]
    own: dict[str, list[str | Path]] = {
        "diff": [place.target, place.whole], "gpus": [], "runs": [], "explain": ["--seqlen-k", "4096"],
        "predict": ["--seqlen-k", "4096"], "sweep": ["--seqlen-k", "1:300"],
    }  # fmt: skip
    more = ["-o", place.out / "written"] if name == "export" else []
    done = command(name, *drawn_options(dice, name), *own.get(name, [place.target]), *more)
    return f"options {done.code}"


def _output(dice: Dice, place: Place) -> str:
    try:
        return check_an_output(dice, place.target, place.out, command)
    except AssertionError as error:
        raise WrongError(str(error)) from error


_TRACE_USES: tuple[Use, ...] = (
    _report, _report_json, _report_text, _check, _page, _page, _import, _import, _export, _export,
    _nsys_report, _doctor, _diff, _with_options, _with_options, _with_options, _output, _output,
)  # fmt: skip
_RARE: tuple[Use, ...] = (_plot, _ranks)


def use(dice: Dice, kind: Kind, place: Place) -> str | None:
    """Uses the input as some user would, in a share of all cases; how that ended, None for no use."""
    if kind == "run" and dice.chance(0.15):
        return _runs(dice, place)
    if not dice.chance(0.35):
        return None
    chosen = dice.pick(_RARE) if dice.chance(0.04) else dice.pick(_TRACE_USES)
    if dice.chance(0.3):
        drawn_environment(dice)
    if kind == "run" and chosen in (_import, _ranks):
        chosen = _report
    return chosen(dice, place)


def examine(dice: Dice, kind: Kind, place: Place) -> tuple[str, str | None]:
    """(how asking ended, how a use ended)."""
    if kind == "left":
        return "result" if _runs(dice, place).endswith("0") else "RunError", None
    if kind == "calls":
        return _predict(dice, place), None
    if kind == "config":
        return _configured(dice, place), None
    return ask(place), use(dice, kind, place)


class _Page(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[list[str]] = []  # type and text
        self.wrong: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS or any(name.startswith("on") for name, _ in attrs):
            self.wrong.append(str(self.get_starttag_text()))
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith(("#", "data:")):
                self.wrong.append(str(self.get_starttag_text()))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append([dict(attrs).get("type") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1][1] += data

    def handle_decl(self, decl: str) -> None:
        if decl.lower() != "doctype html":
            self.wrong.append(decl)

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"<!--{data[:40]}-->")


def check_page(html: str) -> None:
    """The page holds the elements of its template alone, and its data parse."""
    page = _Page()
    page.feed(html)
    page.close()
    if page.wrong:
        raise WrongError(f"the page holds {page.wrong[0]}")
    if [kind for kind, _ in page.scripts] not in _SCRIPTS:
        raise WrongError(f"the page has the scripts {[kind for kind, _ in page.scripts]}")
    for kind, text in page.scripts:
        if kind == _JSON:
            json.loads(text, parse_constant=_no_constant)
        elif kind == _ROWS:
            base64.b64decode(text, validate=True)


def check_database(path: Path) -> None:
    """The tables of a run are all there, and no other."""
    with closing(sqlite3.connect(path)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables != {"run", "kernels", "ranges", "calls"}:
            raise WrongError(f"the database has the tables {sorted(tables)}")
        if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise WrongError("the database is damaged")


__all__ = ["CONFIG", "Place", "WrongError", "check_page", "command", "examine"]
