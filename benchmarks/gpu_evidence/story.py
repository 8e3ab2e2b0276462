"""Step a: generate with the attention of Qwen2.5-7B, 64 and 512 new tokens, every attention call checked."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from attnprof.calls.records import CallRecord, read_records
from attnprof.check.check_run import CheckedCall, check_recorded
from attnprof.check.observed_calls import ObservedCalls, observe
from attnprof.check.target import Target
from attnprof.instrument import Recorder, instrument
from attnprof.instrument.ranges import RecordFunctionRanges
from attnprof.model import Gpu
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from attnprof.workloads.generate import prepare
from attnprof.workloads.spec import GenerateOptions
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.profiled import profiling
from benchmarks.gpu_evidence.segments import Segment, SegmentedRecorder
from benchmarks.gpu_evidence.trim import LIMIT_BYTES, correlations_of, trim_traces


def run(evidence: Evidence) -> None:
    """Both runs; the traces and call records are kept, trimmed."""
    for tokens in (evidence.scale.few, evidence.scale.many):
        with tempfile.TemporaryDirectory() as folder:
            generate(evidence, tokens, Path(folder))


def generate(evidence: Evidence, tokens: int, folder: Path, *, device: str = "cuda") -> None:
    """One run under torch.profiler, with SDPA held to its flash backend.

    The short one has a range around every call; in the long one calls and kernels are matched by their order.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    gpu, version = evidence.environment()
    options = GenerateOptions("qwen2.5-7b", tokens, layers=evidence.scale.layers, attn="sdpa", device=device)
    ranged = tokens == evidence.scale.few
    recorder = Recorder(RecordFunctionRanges()) if ranged else SegmentedRecorder(folder)
    segments = [Segment(folder / "trace.json", 0)]
    with instrument(recorder), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        work = prepare(options, recorder)
        if isinstance(recorder, SegmentedRecorder):
            try:
                work()
            finally:
                recorder.close()
            segments = recorder.segments
        else:
            with profiling(segments[0].trace):
                work()
    calls = folder / "calls.jsonl"
    recorder.write(calls)
    records = read_records(calls)
    judged: list[CheckedCall] = []
    seen: list[ObservedCalls] = []
    edges = [*(segment.first_call for segment in segments[1:]), len(records)]
    for segment, last in zip(segments, edges, strict=True):
        mine = records[segment.first_call : last]
        observed, checked = replay(segment.trace, mine, gpu, version, ranged=ranged)
        seen.append(observed)
        judged += checked
    evidence.add_verdicts("story", f"{tokens} tokens", judged)
    changes = [change for part in seen for change in split_changes(records, part)]
    evidence.add("story", **{f"splits_{tokens}": _merged(changes)})
    keep(evidence, tokens, [segment.trace for segment in segments], seen, records)


def replay(
    trace: Path, records: list[CallRecord], gpu: Gpu, version: str, *, ranged: bool
) -> tuple[ObservedCalls, tuple[CheckedCall, ...]]:
    """The attention calls of a trace and the verdicts on the records; without ranges, matched by order."""
    observed = observe(build_timeline(open_trace(trace)))
    if not ranged:
        observed = in_order(observed, records)
    target = Target(gpu, "torch", version)
    return observed, check_recorded(records, observed, target, has_kernels=True, complete=True)


def keep(
    evidence: Evidence, tokens: int, traces: list[Path], seen: list[ObservedCalls], records: list[CallRecord]
) -> None:
    """Saves trace and records, of all layers or of as many as fit the limit."""
    target = evidence.out / f"story_{tokens}.json.gz"
    layers_of_model = tuple(range(evidence.scale.layers))
    # The whole trace of the long run is too large to commit.
    fewer = (
        (0, evidence.scale.layers - 1),
        (0,),
    )
    for layers in (layers_of_model, *fewer) if tokens == evidence.scale.few else fewer:
        kept = [record for record in records if record.layer in layers]
        wanted = {record.seq for record in kept}
        launches = [correlations_of(trace, part, wanted) for trace, part in zip(traces, seen, strict=True)]
        size = trim_traces(traces, target, launches)
        if size <= LIMIT_BYTES:
            break
    write_records(evidence.out / f"story_{tokens}_calls.jsonl.gz", kept)
    evidence.add("story", **{f"kept_{tokens}": {"layers": list(layers), "calls": len(kept), "bytes": size}})


def write_records(path: Path, records: Iterable[CallRecord]) -> None:
    """Call records as gzip JSON Lines; the same records give the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        for record in records:
            packed.write(json.dumps(record.fields).encode() + b"\n")


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
        changes.append({"step": record.step, "seqlen_k": record.fields["k"][2], "num_splits": splits})
    return _merged(changes)


def _merged(changes: list[dict[str, int | None]]) -> list[dict[str, int | None]]:
    """Without those that repeat the split count before them."""
    before = [None, *(change["num_splits"] for change in changes)]
    first = changes[:1]
    return first + [c for c, last in zip(changes[1:], before[1:], strict=False) if c["num_splits"] != last]
