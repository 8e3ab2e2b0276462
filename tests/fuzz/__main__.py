"""python -m tests.fuzz --count 10000: damaged inputs in bulk, the broken ones kept."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harness import Outcome, endings

_SHOWN = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that broke something")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at once")
    options = parser.parse_args()
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="attnprof-fuzz-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    numbers = range(options.first, options.first + options.count)
    for ending in endings(numbers, options.seed, folder, options.jobs):
        outcome.add(ending)
        if ending.why and len(outcome.broken) <= _SHOWN:
            again = f"--seed {options.seed} --first {ending.number} --count 1 --keep DIR"
            print(f"input {ending.number} is broken: python -m tests.fuzz {again}", file=sys.stderr)
            print(
                f"  {ending.subject}: {', '.join(ending.recipe)}\n{ending.why}", file=sys.stderr, flush=True
            )
    print(outcome.line())
    if outcome.broken:
        print(f"the inputs are in {folder}", file=sys.stderr)
        return 1
    (folder / "whole.sqlite").unlink()
    if options.keep is None:
        folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
