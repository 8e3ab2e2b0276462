#!/usr/bin/env python3
"""Predictions of num_splits: over arrays against one call at a time, in one process, with equal answers.

    python benchmarks/bench_sweep.py                 # 1,000,000 calls over arrays, 20,000 of them one by one
    python benchmarks/bench_sweep.py --calls 5000000

Every number is the median of ``--repeat`` runs. "heuristic" and "random" share nothing between calls; "grid"
is a sweep of lengths x batch sizes with its change points, as attnprof sweep makes it. The calls predicted
one by one are a sample of the same calls, and the ratio is per call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.analysis.sweep import Setting, stretches, sweep
from attnprof.dispatch import num_splits_array, num_splits_heuristic, predict
from attnprof.dispatch.flash_attn2.array import split_counts
from attnprof.dispatch.flash_attn2.versions import DEFAULT_VERSION, rules_for
from attnprof.dispatch.heuristic import split_choice
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall

CALL = AttentionCall("flash_attn", "fwd", 1, 1, 1, 28, 4, 128, causal=True)
GPU = gpu_by_name("h100")


def random_calls(calls: int) -> dict[str, Any]:
    """Fields of calls that share nothing: most are below the slots, so that the search runs."""
    draw = np.random.default_rng(20260101)
    return {
        "batch": draw.integers(1, 49, calls),
        "seqlen_q": draw.choice([1, 1, 1, 2, 64, 100], calls),
        "seqlen_k": draw.integers(1, 131_072, calls),
        "num_heads_k": draw.choice([1, 2, 4, 28], calls),
        "head_dim": draw.choice([64, 96, 128, 256], calls),
    }


def seconds(work: Callable[[], Any], repeat: int) -> float:
    taken = []
    for _ in range(repeat):
        split_choice.cache_clear()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def heuristic_rows(calls: int, sample: int, repeat: int) -> dict[str, float]:
    """num_splits_heuristic alone, on arguments that are all different."""
    draw = np.random.default_rng(20260102)
    blocks, n_blocks = draw.integers(1, 212, calls), draw.integers(1, 4096, calls)
    told = num_splits_array(blocks, 264, n_blocks)
    some = list(zip(blocks[:sample].tolist(), n_blocks[:sample].tolist(), strict=True))
    assert told[:sample].tolist() == [num_splits_heuristic(b, 264, n) for b, n in some]
    return {
        "array": seconds(lambda: num_splits_array(blocks, 264, n_blocks), repeat) / calls,
        "scalar": seconds(lambda: [num_splits_heuristic(b, 264, n) for b, n in some], repeat) / sample,
    }


def random_rows(calls: int, sample: int, repeat: int) -> dict[str, float]:
    """Whole predictions of num_splits: refusals, windows, folding and the heuristic."""
    fields, rules = random_calls(calls), rules_for(DEFAULT_VERSION)
    names = list(fields)
    rows = zip(*(fields[name][:sample].tolist() for name in names), strict=True)
    some = [replace(CALL, **dict(zip(names, row, strict=True))) for row in rows]
    told = split_counts(CALL, GPU, rules, fields).num_splits
    assert told[:sample].tolist() == [predict(call, GPU).num_splits or 0 for call in some]
    return {
        "array": seconds(lambda: split_counts(CALL, GPU, rules, fields), repeat) / calls,
        "scalar": seconds(lambda: [predict(call, GPU) for call in some], repeat) / sample,
    }


def grid_rows(calls: int, sample: int, repeat: int) -> dict[str, float]:
    """A sweep with its change points, as the command makes it."""
    lengths = range(1, 8193)
    settings = [Setting(replace(CALL, batch=b + 1), GPU, DEFAULT_VERSION) for b in range(-(-calls // 8192))]
    result = sweep(settings, "seqlen_k", lengths)
    some = [replace(settings[row].call, seqlen_k=keys) for row in (0, 7, 31) for keys in range(1, 8193, 3)][
        :sample
    ]
    told = [int(result.num_splits[call.batch - 1, call.seqlen_k - 1]) for call in some]
    assert told == [predict(call, GPU).num_splits for call in some]
    size = result.num_splits.size
    return {
        "array": seconds(lambda: list(stretches(sweep(settings, "seqlen_k", lengths))), repeat) / size,
        "scalar": seconds(lambda: [predict(call, GPU) for call in some], repeat) / len(some),
    }


JOBS = {"heuristic": heuristic_rows, "random": random_rows, "grid": grid_rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000, help="calls predicted one by one")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    results = {}
    print(f"{'':12}{'array, s per million':>22}{'one by one':>14}{'ratio':>8}")
    for name, job in JOBS.items():
        row = job(args.calls, min(args.sample, args.calls), args.repeat)
        ratio = row["scalar"] / row["array"]
        results[name] = {**{kind: each * 1e6 for kind, each in row.items()}, "ratio": ratio}
        print(f"{name:12}{row['array'] * 1e6:>22.3f}{row['scalar'] * 1e6:>14.1f}{ratio:>8.0f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
