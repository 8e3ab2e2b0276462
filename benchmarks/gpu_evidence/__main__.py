"""The command: checks what is there, runs the steps in order of worth, saves each at once."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK
from benchmarks.gpu_evidence.evidence import REHEARSED, Evidence, Scale


def steps() -> dict[str, Callable[[Evidence], None]]:
    """Name to step, most worth first. Imported late: each needs torch."""
    from benchmarks.gpu_evidence import (
        flash_attn_4,
        graphs,
        matrix,
        numerics,
        occupancy,
        package,
        peaks,
        splitting,
        story,
        vllm,
    )  # fmt: skip

    return {
        "story": story.run,
        "matrix": matrix.run,
        "flash_attn": package.run,
        "vllm_fa3": vllm.run,
        "splitting": splitting.run,
        "peaks": peaks.run,
        "occupancy": occupancy.run,
        "graphs": graphs.run,
        "numerics": numerics.run,
        "flash_attn_4": flash_attn_4.run,
    }


def main(arguments: list[str] | None = None) -> int:
    """0: all that ran agrees; 1: a mismatch or a step that failed; 2: usage; 3: no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_evidence", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--minutes", type=float, default=8, help="stop starting new work after this long")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="a folder with flash_attn and others")
    parser.add_argument("--only", metavar="STEPS", help="comma-separated: story,matrix,flash_attn,…")
    parser.add_argument("--calls", type=int, help="calls of the matrix (default 2000)")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="go through all of it on the CPU with a stand-in for the GPU that launches nothing",
    )
    options = parser.parse_args(arguments)
    if options.packages is not None:
        if not options.packages.is_dir():
            parser.error(f"--packages {options.packages}: no such folder")
        sys.path.insert(0, str(options.packages.resolve()))
    wanted = options.only.split(",") if options.only else None
    why_not = "" if options.rehearse else no_gpu()
    if why_not:
        print(f"no evidence can be gathered here: {why_not}", file=sys.stderr)
        return EXIT_CANNOT_TELL
    known = steps()
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: not among {', '.join(known)}")
    scale = REHEARSED if options.rehearse else Scale()
    scale = replace(scale, matrix_calls=options.calls or scale.matrix_calls)
    options.out.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(
        options.out, deadline=monotonic() + options.minutes * 60, scale=scale, rehearsal=options.rehearse
    )
    with device(options.rehearse):
        for name, step in known.items():
            if wanted is None or name in wanted:
                run_step(evidence, name, step)
        if options.rehearse and wanted is None:
            from benchmarks.gpu_evidence.stand_in import rehearse_other_means

            run_step(evidence, "other means of splitting", rehearse_other_means)
    if options.rehearse:
        print(f"rehearsed: {evidence.results['rehearsal']}")
    print(f"results: {evidence.path}")
    return EXIT_CHECK_FAILED if evidence.failed else EXIT_OK


def run_step(evidence: Evidence, name: str, step: Callable[[Evidence], None]) -> None:
    """Runs one step, unless the time is up; one that breaks must not cost the others their results."""
    if evidence.time_left() <= 0:
        evidence.skip(name, "no time left")
        print(f"{name}: {evidence.summary(name)}", flush=True)
        return
    began = monotonic()
    print(f"{name}: …", flush=True)
    try:
        step(evidence)
    except Exception as error:
        traceback.print_exc()
        evidence.fail(name, f"{type(error).__name__}: {error}")
    seconds = monotonic() - began
    evidence.add(name, seconds=round(seconds, 1))
    print(f"{name}: {evidence.summary(name)} ({seconds:.0f} s)", flush=True)


def device(rehearse: bool) -> AbstractContextManager[Any]:
    """The GPU there is, or what stands in for it."""
    if not rehearse:
        return nullcontext()
    import torch

    from benchmarks.gpu_evidence.package import version_at_hand
    from benchmarks.gpu_evidence.stand_in import standing_in

    return standing_in(str(torch.__version__), version_at_hand())


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
