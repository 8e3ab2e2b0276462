"""Step a: generate with the attention of Qwen2.5-7B, 64 and 512 new tokens, every attention call checked."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from attnprof.check import Target, check_recorded
from attnprof.instrument import Recorder, instrument
from attnprof.instrument.ranges import NoRanges, RecordFunctionRanges
from attnprof.observe import ObservedCalls, observe
from attnprof.records import CallRecord, read_records
from attnprof.timeline import build_timeline
from attnprof.trace.open import open_trace
from attnprof.workloads.generate import prepare
from attnprof.workloads.spec import GenerateOptions
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.profiled import profiling
from benchmarks.gpu_evidence.trim import trim_trace

_LAYERS = 28
_TOKENS = (64, 512)


def run(evidence: Evidence) -> None:
    """Both runs; the traces and call records are kept, trimmed."""
    for tokens in _TOKENS:
        with tempfile.TemporaryDirectory() as folder:
            generate(evidence, tokens, Path(folder))


def generate(evidence: Evidence, tokens: int, folder: Path) -> None:
    """One run under torch.profiler, with SDPA held to its flash backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    gpu, version = evidence.environment()
    # A range per call makes a trace too large to read for 512 tokens: there, calls are matched by order.
    ranged = tokens == _TOKENS[0]
    recorder = Recorder(RecordFunctionRanges() if ranged else NoRanges())
    options = GenerateOptions("qwen2.5-7b", tokens, layers=_LAYERS, attn="sdpa", device="cuda")
    trace, calls = folder / "trace.json", folder / "calls.jsonl"
    with instrument(recorder), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        work = prepare(options, recorder)
        with profiling(trace, cpu=ranged):
            work()
    recorder.write(calls)
    records = read_records(calls)
    observed = observe(build_timeline(open_trace(trace)))
    if not ranged:
        observed = in_order(observed, records)
    target = Target(gpu, "torch", version)
    checked = check_recorded(records, observed, target, has_kernels=True, complete=True)
    evidence.add_verdicts("story", f"{tokens} tokens", checked)
    trim_trace(trace, evidence.out / f"story_{tokens}.json.gz")
    with (
        calls.open("rb") as plain,
        gzip.GzipFile(evidence.out / f"story_{tokens}_calls.jsonl.gz", "wb", mtime=0) as out,
    ):
        shutil.copyfileobj(plain, out)
    changes = split_changes(records, observed)
    evidence.add("story", **{f"splits_{tokens}": changes})


def in_order(observed: ObservedCalls, records: list[CallRecord]) -> ObservedCalls:
    """The observed calls numbered as the records are: one stream runs them in the order they were made.

    Raises ValueError where there are more or fewer of them.
    """
    if len(observed) != len(records):
        raise ValueError(
            f"{len(observed)} attention calls ran, {len(records)} were recorded: no order to match"
        )
    return replace(observed, seq=np.array([record.seq for record in records], dtype=np.int64))


def split_changes(records: list[CallRecord], observed: ObservedCalls) -> list[dict[str, int | None]]:
    """Where layer 0's observed split count changes: step, KV length, num_splits."""
    shape_of = dict(zip(observed.seq.tolist(), observed.shape.tolist(), strict=True))
    changes: list[dict[str, int | None]] = []
    for record in records:
        if record.layer != 0 or record.phase != "decode" or record.seq not in shape_of:
            continue
        splits = observed.shapes[shape_of[record.seq]].num_splits
        if not changes or changes[-1]["num_splits"] != splits:
            changes.append({"step": record.step, "seqlen_k": record.fields["k"][2], "num_splits": splits})
    return changes
