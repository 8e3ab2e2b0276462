"""python -m tests.kill --count 200: import and run stopped at random moments, in all ways."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kill.harness import kill_many

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attnprof-kill-") as folder:
        outcome = kill_many(options.count, options.seed, Path(folder))
    for what in outcome.broken[:_SHOWN]:
        print(what, file=sys.stderr)
    print(f"{outcome.line()} (seed {options.seed}, {time.monotonic() - began:.0f} s)")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
