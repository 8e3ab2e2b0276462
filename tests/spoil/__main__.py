"""python -m tests.spoil --count 2000 --seed 0: spoilt traces in bulk, what the check finds and misses.

``--library NAME`` draws scenes of one library alone, ``--library each`` of every one of the registry in turn.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from attnprof.dispatch.libraries import LIBRARIES
from tests.spoil.harness import (
    PER_SCENE,
    REAL,
    RECORDS,
    Tally,
    alarm_of_whole,
    alarms_of_real,
    in_processes,
    judge_scene,
)
from tests.spoil.libraries import NO_SCENES

EACH = "each"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.spoil", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="spoils, of each library asked for")
    parser.add_argument("--whole", type=int, help="whole traces that must raise no alarm; as many as scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene, to repeat one")
    parser.add_argument("--records", choices=("none", "file", "operators"), help="scenes of one kind alone")
    parser.add_argument("--library", choices=(EACH, *LIBRARIES), default="", help="scenes of one, or of each")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at once")
    parser.add_argument("--real", type=Path, action="append", help="another folder of real traces")
    parser.add_argument("--misses", type=int, default=40, help="how many misses to print")
    options = parser.parse_args()
    asked = [name for name in LIBRARIES if name not in NO_SCENES] if options.library == EACH else None
    broken = False
    table = ["library              without records   can be told      with records   false alarms"]
    for library in asked or [options.library]:
        tally = measure(options, library)
        alarms, whole = whole_alarms(options, library)
        broken = broken or bool(tally.broken) or alarms > 0
        table.append(_row(tally, library, alarms, whole))
    if options.library:
        print("\n".join((*table, *(f"{name:20} no scenes: {why}" for name, why in NO_SCENES.items()))))
    else:
        real = list(alarms_of_real((*REAL, *(options.real or ()))))
        for name, alarm in real:
            if alarm:
                print(f"false alarm: {name}: {alarm}")
        print(f"{sum(bool(alarm) for _, alarm in real)} false alarms in {len(real)} real traces")
    return 1 if broken else 0


def _row(tally: Tally, library: str, alarms: int, whole: int) -> str:
    """One line of the table by library."""
    said = []
    for recorded in ("without records", "with records"):
        found, of = tally.rate(recorded)
        said.append(f"{found:6} of {of:6} {100 * found / of:6.1f}%" if of else " " * 24)
    return f"{library:20} {said[0]}  {said[1]}   {alarms} of {whole}"


def measure(options: argparse.Namespace, library: str) -> Tally:
    """Spoils by the options, of one library's scenes; "" for the mix. What was missed is printed."""
    records = (options.records,) if options.records else RECORDS
    began = time.perf_counter()
    tally = Tally()
    left = options.count
    work = []
    for number in _scenes(options):
        work.append((options.seed, number, min(PER_SCENE, left), records, library))
        left -= PER_SCENE
    for verdicts in in_processes(judge_scene, work, options.jobs):
        for verdict in verdicts:  # type: ignore[attr-defined]
            tally.add(verdict)
    took = time.perf_counter() - began
    for verdict in [*tally.broken, *tally.missed][: options.misses]:
        print(
            f"{verdict.outcome}: scene {verdict.number}: {verdict.kind}: {verdict.detail}\n  {verdict.scene}"
        )
        if verdict.reason:
            print(verdict.reason)
    for line in tally.lines():
        print(line)
    speed = f"{options.count} spoils in {took:.0f} s, {options.count / took:.0f} a second"
    print(f"{library or 'all'}: {speed}; {tally.by_command} asked by command too", flush=True)
    return tally


def _scenes(options: argparse.Namespace) -> range:
    return range(options.first, options.first + -(-options.count // PER_SCENE))


def whole_alarms(options: argparse.Namespace, library: str) -> tuple[int, int]:
    """(false alarms, whole traces): each alarm is printed."""
    records = (options.records,) if options.records else RECORDS
    whole = len(_scenes(options)) if options.whole is None else options.whole
    work = [(options.seed, number, records, library) for number in range(whole)]
    alarms = [str(one) for one in in_processes(alarm_of_whole, work, options.jobs) if one]
    for alarm in alarms[: options.misses]:
        print(f"false alarm: {alarm}")
    print(f"{len(alarms)} false alarms in {whole} whole traces", flush=True)
    return len(alarms), whole


if __name__ == "__main__":
    sys.exit(main())
