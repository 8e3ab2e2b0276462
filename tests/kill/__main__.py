"""python -m tests.kill --count 200: import and run killed at random moments."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kill.harness import kill_many


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attnprof-kill-") as folder:
        outcome = kill_many(options.count, options.seed, Path(folder) / "attnprof-runs")
    for what in outcome.broken[:10]:
        print(what, file=sys.stderr)
    left = ", ".join(f"{count} left {what}" for what, count in outcome.left.most_common())
    print(f"{options.count} kills: {left}; {len(outcome.broken)} broken")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
