"""python -m tests.fuzz --count 10000: damaged traces in bulk, the broken ones kept."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harness import fuzz, limit_memory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that broke something")
    options = parser.parse_args()
    limit_memory()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="attnprof-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcome = fuzz(options.count, options.seed, folder, first=options.first)
    for number, name, why in outcome.broken[:10]:
        print(
            f"input {number} ({name}), python -m tests.fuzz --first {number} --count 1:\n{why}",
            file=sys.stderr,
        )
    ends = ", ".join(f"{count} {end}" for end, count in outcome.ends.most_common())
    print(f"{options.count} inputs: {ends}; {len(outcome.broken)} broken; slowest {outcome.slowest_s:.1f} s")
    if outcome.broken:
        print(f"the inputs are in {folder}", file=sys.stderr)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
