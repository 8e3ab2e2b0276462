"""Makes scenes, spoils them, asks the check, and counts: found, missed, not to be told, and false alarms."""

from __future__ import annotations

import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from attnprof.model import Library
from attnprof.runs.run import load
from tests.conftest import SHARED, TESTS
from tests.spoil.observer import why_nobody_can_tell
from tests.spoil.scenes import Scene, make_scene
from tests.spoil.spoils import Spoil, spoils
from tests.spoil.traces import run_of
from tests.spoil.unusual_scenes import cut_edges, make_unusual
from tests.support.command import attnprof

PER_SCENE = 10
RECORDS = ("none", "none", "file", "operators")
REAL = (TESTS / "data" / "traces", SHARED / "traces")
FOUND, MISSED, NOBODY, BROKEN = "found", "missed", "nobody can tell", "broken"
_EACH_BY_COMMAND = 400
_EACH_UNUSUAL = 4  # scenes: of so many one is unusual


@dataclass(frozen=True)
class Verdict:
    """What became of one spoil. ``reason``: why nobody could tell, or the traceback."""

    number: int
    kind: str
    detail: str
    records: str
    outcome: str
    scene: str
    reason: str = ""
    by_command: bool = False


@dataclass
class Tally:
    """Verdicts added up, by kind and whether calls were recorded."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    missed: list[Verdict] = field(default_factory=list)
    broken: list[Verdict] = field(default_factory=list)
    by_command: int = 0

    def add(self, verdict: Verdict) -> None:
        recorded = "without records" if verdict.records == "none" else "with records"
        self.counts[recorded, coarse(verdict.kind), verdict.outcome] += 1
        self.by_command += verdict.by_command
        if verdict.outcome == NOBODY:
            self.reasons[re.sub(r" \d[\w.]*| fa\d", "", verdict.reason)] += 1
        if verdict.outcome == MISSED:
            self.missed.append(verdict)
        if verdict.outcome == BROKEN:
            self.broken.append(verdict)

    def rate(self, recorded: str, kind: str | None = None) -> tuple[int, int]:
        """(found, could be told) of a kind, or of all."""
        chosen = {k: n for k, n in self.counts.items() if k[0] == recorded and kind in (None, k[1])}
        found = sum(n for (_, _, outcome), n in chosen.items() if outcome == FOUND)
        return found, found + sum(n for (_, _, outcome), n in chosen.items() if outcome in (MISSED, BROKEN))

    def lines(self) -> Iterator[str]:
        """The rates as a table."""
        for recorded in ("without records", "with records"):
            kinds = sorted({kind for told, kind, _ in self.counts if told == recorded})
            if not kinds:
                continue
            yield f"{recorded:34} found   of   rate   nobody can tell"
            for kind in kinds:
                found, of = self.rate(recorded, kind)
                nobody = self.counts[recorded, kind, NOBODY]
                yield f"  {kind:30} {found:7} {of:4}  {_percent(found, of)}   {nobody or ''}"
            found, of = self.rate(recorded)
            yield f"  {'all':30} {found:7} {of:4}  {_percent(found, of)}"
        for reason, count in self.reasons.most_common():
            yield f"nobody can tell {count}: {reason}"


def _percent(found: int, of: int) -> str:
    return f"{100 * found / of:5.1f}%" if of else "    -"


def coarse(kind: str) -> str:
    """A kind without which template argument it was."""
    return re.sub(r" template .*", " template argument", kind)


def judge(number: int, whole: Scene, one: Spoil, folder: Path, *, by_command: bool = False) -> Verdict:
    """Whether the check finds a spoil; whether anybody could is asked only where it does not."""
    said = (number, one.kind, one.detail, whole.records)
    try:
        run = run_of(one.scene, folder)
        found = bool(run.check().failures)
        if by_command and whole.records != "file":
            (trace,) = folder.glob("trace.*")
            code = attnprof("check", str(trace)).code
            if (code == 1) != found:
                return Verdict(*said, BROKEN, whole.line(), f"check exits {code}, found is {found}")
        if found:
            return Verdict(*said, FOUND, whole.line(), by_command=by_command)
        reason = why_nobody_can_tell(whole, one)
        return Verdict(*said, NOBODY if reason else MISSED, whole.line(), reason, by_command)
    except Exception:
        return Verdict(*said, BROKEN, whole.line(), traceback.format_exc())


def _scene(
    rng: Random,
    number: int,
    records: Sequence[str],
    library: Library = "",
    unusual: Sequence[str] = ("file",),
) -> Scene:
    """A scene whose calls were recorded in one of these ways; of the ``unusual`` ones it may be an odd one.

    What nobody can tell of these without arguments is not worked out. Of a library asked for, edges are cut.
    """
    seed = rng.getrandbits(60)
    if library:
        scene = make_scene(seed, records=records, library=library)
        return cut_edges(rng, scene) if "none" in unusual and number % _EACH_UNUSUAL == 0 else scene
    told = rng.choice(records)
    odd = told in unusual and number % _EACH_UNUSUAL == 0
    return make_unusual(seed, records=told) if odd else make_scene(seed, records=(told,))


def judge_scene(
    seed: int, number: int, count: int, records: Sequence[str] = RECORDS, library: Library = ""
) -> list[Verdict]:
    """The verdicts on ``count`` spoils of scene ``number`` of a seed."""
    rng = Random(f"{seed} {number}{library}")
    whole = _scene(rng, number, records, library)
    verdicts = []
    with scratch() as folder:
        for at, one in enumerate(spoils(whole, rng, count)):
            by_command = (number * count + at) % _EACH_BY_COMMAND == 0
            inner = folder / str(at)
            verdicts.append(judge(number, whole, one, inner, by_command=by_command))
            shutil.rmtree(inner, ignore_errors=True)
    return verdicts


def alarm_of_whole(seed: int, number: int, records: Sequence[str] = RECORDS, library: Library = "") -> str:
    """What the check holds against whole scene ``number`` of a seed; "" where nothing."""
    rng = Random(f"whole {seed} {number}{library}")
    whole = _scene(rng, number, records, library, unusual=("none", "file"))
    with scratch() as folder:
        try:
            failures = run_of(whole, folder / "whole").check().failures
        except Exception:
            return f"scene {number}: {whole.line()}\n{traceback.format_exc()}"
    if not failures:
        return ""
    first = failures[0]
    return f"scene {number}: {whole.line()}\n  {len(failures)} x {first.verdict.value}: {first.detail}"


def alarms_of_real(folders: Sequence[Path] = REAL) -> Iterator[tuple[str, str]]:
    """Each real trace at hand, and what the check holds against it."""
    paths = {
        path.name: path
        for folder in reversed(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
    }
    for name, path in sorted(paths.items()):
        if not name.endswith(".gz"):
            continue
        failures = load(path).check().failures
        yield (
            name,
            "" if not failures else f"{len(failures)} x {failures[0].verdict.value}: {failures[0].detail}",
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="attnprof-spoil-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_processes(
    work: Callable[..., object], arguments: Iterable[tuple[object, ...]], jobs: int
) -> Iterator[object]:
    """The answers in order, by ``jobs`` processes."""
    if jobs <= 1:
        yield from (work(*one) for one in arguments)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, *zip(*arguments, strict=True), chunksize=8)
