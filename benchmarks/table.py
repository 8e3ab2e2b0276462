#!/usr/bin/env python3
"""The whole table of costs, on one machine in one run: CPU time over a reference, medians.

    python -m benchmarks.table                          # every part
    python -m benchmarks.table --only start predict
    python -m benchmarks.table --peers ~/peers/bin/python --markdown

A part is a module ``benchmarks/rows_NAME.py`` whose ``jobs(folder, peers)`` writes its inputs into the folder
and yields what to run. :mod:`benchmarks.ratios` says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_trace import versions  # noqa: E402
from benchmarks.ratios import HEADINGS, Row, cells, measure  # noqa: E402

PARTS = tuple(sorted(path.stem.removeprefix("rows_") for path in Path(__file__).parent.glob("rows_*.py")))
_WIDTHS = (52, 9, 11, 16, 17, 8)


def line(texts: tuple[str, ...], markdown: bool) -> str:
    """A row of the table, for a terminal or for a page."""
    if markdown:
        return f"| {' | '.join(texts)} |"
    head = f"{texts[0]:{_WIDTHS[0]}}" + "".join(
        f"{text:>{width}}" for text, width in zip(texts[1:], _WIDTHS[1:], strict=False)
    )
    return f"{head}  {texts[-1]}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", metavar="PYTHON", help="measure the peers that this Python imports")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
    print(f"{date.today().isoformat()}: {versions(args.peers)}\n")
    print(line(HEADINGS, args.markdown))
    if args.markdown:
        print(line(("---", *["---:"] * 5, "---"), True))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        for part in args.only:
            inputs = Path(folder) / part
            inputs.mkdir()
            for job in import_module(f"benchmarks.rows_{part}").jobs(inputs, args.peers):
                rows.append(measure(job, args.rounds))
                print(line(cells(rows[-1]), args.markdown), flush=True)
    if args.json:
        told = [
            {
                "job": row.job.name,
                "goal": row.job.goal,
                "value": row.value,
                "seconds": row.seconds,
                "reference": row.reference,
                "peers": dict(row.peers),
                "missing": row.job.missing,
            }
            for row in rows
        ]
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
