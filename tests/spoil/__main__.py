"""python -m tests.spoil --count 2000 --seed 0: spoilt traces in bulk, what the check finds and misses."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.spoil", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="spoils")
    parser.add_argument("--whole", type=int, help="whole traces that must raise no alarm; as many as scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene, to repeat one")
    parser.add_argument("--records", choices=("none", "file", "operators"), help="scenes of one kind alone")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at once")
    parser.add_argument("--real", type=Path, action="append", help="another folder of real traces")
    parser.add_argument("--misses", type=int, default=40, help="how many misses to print")
    options = parser.parse_args()
    records = (options.records,) if options.records else RECORDS
    began = time.perf_counter()
    tally = Tally()
    scenes = range(options.first, options.first + -(-options.count // PER_SCENE))
    left = options.count
    work = []
    for number in scenes:
        work.append((options.seed, number, min(PER_SCENE, left), records))
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
    print(f"{speed}; {tally.by_command} asked by command too")
    whole = len(scenes) if options.whole is None else options.whole
    alarms = [
        one
        for one in in_processes(
            alarm_of_whole, [(options.seed, n, records) for n in range(whole)], options.jobs
        )
        if one
    ]
    for alarm in alarms[: options.misses]:
        print(f"false alarm: {alarm}")
    print(f"{len(alarms)} false alarms in {whole} whole traces")
    real = list(alarms_of_real((*REAL, *(options.real or ()))))
    for name, alarm in real:
        if alarm:
            print(f"false alarm: {name}: {alarm}")
    print(f"{sum(bool(alarm) for _, alarm in real)} false alarms in {len(real)} real traces")
    return 1 if tally.broken or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
