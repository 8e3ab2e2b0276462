"""The command: checks what is there, runs the steps in order of worth, saves each at once."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK
from benchmarks.gpu_evidence.evidence import Evidence


def steps() -> dict[str, Callable[[Evidence], None]]:
    """Name to step, most worth first. Imported late: each needs torch."""
    from benchmarks.gpu_evidence import graphs, matrix, numerics, package, splitting, story

    return {
        "story": story.run,
        "matrix": matrix.run,
        "flash_attn": package.run,
        "splitting": splitting.run,
        "graphs": graphs.run,
        "numerics": numerics.run,
    }


def main(arguments: list[str] | None = None) -> int:
    """0: all that ran agrees; 1: a mismatch or a step that failed; 3: no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_evidence", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--minutes", type=float, default=8, help="stop starting new work after this long")
    parser.add_argument("--only", metavar="STEPS", help="comma-separated: story,matrix,flash_attn,…")
    parser.add_argument("--calls", type=int, default=2000, help="calls of the matrix")
    options = parser.parse_args(arguments)
    why_not = no_gpu()
    if why_not:
        print(f"no evidence can be gathered here: {why_not}", file=sys.stderr)
        return EXIT_CANNOT_TELL
    options.out.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(options.out, deadline=monotonic() + options.minutes * 60, matrix_calls=options.calls)
    wanted = options.only.split(",") if options.only else list(steps())
    for name, step in steps().items():
        if name not in wanted:
            continue
        if evidence.time_left() <= 0:
            evidence.skip(name, "no time left")
            continue
        began = monotonic()
        print(f"{name}: …", flush=True)
        try:
            step(evidence)
        except Exception as error:  # a step that breaks must not cost the others their results
            traceback.print_exc()
            evidence.fail(name, f"{type(error).__name__}: {error}")
        print(f"{name}: {evidence.summary(name)} ({monotonic() - began:.0f} s)", flush=True)
    print(f"results: {evidence.path}")
    return EXIT_CHECK_FAILED if evidence.failed else EXIT_OK


def no_gpu() -> str:
    """Why nothing can run here; empty where an NVIDIA GPU is at hand."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no NVIDIA GPU"
    return "torch is built for ROCm" if torch.version.hip else ""


if __name__ == "__main__":
    sys.exit(main())
