"""Rows of the table: many predictions, of calls in a file and as a sweep, over the least there is to do."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ratios import ATTNPROF, ROOT, Job, Program

_GOLDEN = ROOT / "tests" / "data" / "golden" / "fa2_launches_2.8.3.jsonl.gz"
LINES = 8_000  # distinct ones
SWEPT_KEYS = 200_000
REGIMES = {"split": (1, 52), "saturated": (64, 115)}  # first and last batch size, 10.4 million points each
SLOTS = 264  # of an H100: two thread blocks on each of 132 SMs
_READ = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
_SWEEP = """
import sys, time
from attnprof.analysis.sweep import Setting, stretches, sweep
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
first, last, keys = map(int, sys.argv[1:])
calls = [AttentionCall("flash_attn", "fwd", b, 1, 1, 28, 4, 128, causal=True) for b in range(first, last + 1)]
settings = [Setting(call, gpu_by_name("h100"), "2.8.3") for call in calls]
began = time.process_time()
found = list(stretches(sweep(settings, "seqlen_k", range(1, keys + 1))))
took = time.process_time() - began
splits = [(each.num_splits or 0, each.high - each.low + 1) for each in found]
pairs = zip(found, found[1:])
changes = sum(a.setting is b.setting and a.num_splits != b.num_splits for a, b in pairs)
print(sum(count * points for count, points in splits), changes)
print(took)
"""


def jobs(folder: Path, peers: str | None) -> Iterator[Job]:
    """predict --calls of distinct lines, then both regimes of the heuristic."""
    calls = {"short": folder / "short.jsonl", "golden": folder / "golden.jsonl"}
    write_calls(calls["short"], LINES)
    write_golden(calls["golden"], LINES)
    for kind, path in calls.items():
        size = path.stat().st_size / LINES
        yield Job(
            f"predict --calls, {LINES:,} lines of {size:.0f} bytes",
            Program((*ATTNPROF, "predict", "--gpu", "h100", "--calls", path)),
            3,
            Program((sys.executable, "-c", _READ, path)),
            {"python": Program((sys.executable, "-c", "pass"))} if kind == "short" else {},
        )
    loop = compiled_loop(folder)
    for name, (first, last) in REGIMES.items():
        text = (str(first), str(last), str(SWEPT_KEYS))
        points = (last - first + 1) * SWEPT_KEYS / 1e6
        ours = Program((sys.executable, "-c", _SWEEP, *text), printed=True)
        job = f"sweep(), {points:.1f}M points, {name}, over C"
        if loop is None:
            yield Job(job, ours, 1, missing="no C compiler")
            continue
        _must_agree(ours, theirs := Program((loop, *text, str(SLOTS)), printed=True))
        yield Job(job, ours, 1, theirs)


def write_calls(path: Path, lines: int) -> None:
    """Calls of flash_attn as a recorder or a script writes them, no two alike."""
    draw, seen = random.Random(20261128), set()
    with path.open("w") as file:
        while len(seen) < lines:
            heads = draw.choice([(28, 4), (32, 8), (32, 32), (64, 8), (40, 8)])
            call = {
                "library": "flash_attn",
                "entry": draw.choice(["fwd", "fwd", "fwd_kvcache", "varlen_fwd"]),
                "dtype": draw.choice(["bf16", "fp16"]),
                "batch": draw.randint(1, 64),
                "seqlen_q": draw.choice([1, 1, 1, 2, 64, 512]),
                "seqlen_k": draw.randint(512, 131_072),
                "num_heads": heads[0],
                "num_heads_k": heads[1],
                "head_dim": draw.choice([64, 96, 128, 256]),
                "causal": draw.random() < 0.7,
            }
            line = json.dumps(call)
            if line not in seen:
                seen.add(line)
                file.write(line + "\n")


def write_golden(path: Path, lines: int) -> None:
    """Calls of upstream's golden data with what they launched, each of another cache where they repeat."""
    with gzip.open(_GOLDEN, "rt") as file:
        rows = [json.loads(line) for line in file]
    with path.open("w") as out:
        for number in range(lines):
            row = rows[number % len(rows)]
            row["call"]["seqlen_k"] += number >= len(rows)
            out.write(json.dumps(row) + "\n")


def compiled_loop(folder: Path) -> Path | None:
    """The loop in C, compiled here; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "split_loop"
    source = Path(__file__).with_name("split_loop.c")
    subprocess.run([compiler, "-O2", "-o", program, source, "-lm"], check=True)
    return program


def _must_agree(ours: Program, theirs: Program) -> None:
    """Both say the same sum of split counts and number of changes, before either is timed."""
    told = [
        subprocess.run(each.command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
        for each in (ours, theirs)
    ]
    if told[0] != told[1]:
        raise AssertionError(f"the sweep says {told[0]}, the loop in C {told[1]}")
