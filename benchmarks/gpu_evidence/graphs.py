"""Step e: a CUDA graph freezes the split count chosen at capture."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attnprof.capture.nsys import profile_command
from attnprof.capture.nsys_files import export_command
from attnprof.check.observed_calls import observe
from attnprof.dispatch import predict
from attnprof.machine.find_nsys import find_nsys
from attnprof.model import AttentionCall, Gpu
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.profiled import profiling
from benchmarks.gpu_evidence.trim import trim_trace

_LENGTHS = (128, 1024, 4096)
_REPLAYS = 3
_LAYERS = 28
_HEADS, _HEADS_K, _HEAD_DIM = 28, 4, 128
_NSYS_S = 180


def run(evidence: Evidence) -> None:
    """The attention of a decode step captured at each length; each replay must launch what the capture chose.

    Under torch.profiler, and under nsys, which records a graph's kernels one by one, where it is installed.
    """
    gpu, version = evidence.environment()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        graphs = [capture(seqlen_k) for seqlen_k in _LENGTHS]
        with profiling(trace):
            replay(graphs)
        compare(evidence, "torch_profiler", split_counts(trace), gpu, version)
        trim_trace(trace, evidence.out / "graphs.json.gz")
        under_nsys(evidence, Path(folder), gpu, version)


def compare(evidence: Evidence, recorder: str, seen: list[int | None], gpu: Gpu, version: str) -> None:
    """Saves the split counts seen in the replays beside those predicted for the captured lengths."""
    expected = [
        predict(
            AttentionCall("torch", "fwd", 1, 1, length, _HEADS, _HEADS_K, _HEAD_DIM), gpu, version
        ).num_splits
        for length in _LENGTHS
    ]
    each = _REPLAYS * _LAYERS
    parts = [seen[at : at + each] for at in range(0, len(_LENGTHS) * each, each)]
    rows = [
        {
            "captured_seqlen_k": length,
            "predicted_num_splits": wanted,
            "replayed_num_splits": {str(splits): part.count(splits) for splits in set(part)},
        }
        for length, wanted, part in zip(_LENGTHS, expected, parts, strict=True)
    ]
    wrong = sum(part != [wanted] * each for wanted, part in zip(expected, parts, strict=True))
    wrong += len(seen) != each * len(_LENGTHS)
    before = evidence.results["steps"].get("graphs", {}).get("mismatches", 0)
    evidence.add("graphs", **{recorder: rows, "mismatches": before + wrong})


def split_counts(trace: Path) -> list[int | None]:
    """num_splits of each attention call that a graph's launch started, in order."""
    observed = observe(build_timeline(open_trace(trace)))
    return [observed.shapes[shape].num_splits for shape in observed.shape[observed.replayed].tolist()]


def under_nsys(evidence: Evidence, folder: Path, gpu: Gpu, version: str) -> None:
    """The same program under nsys in node mode; what keeps it from running is written down."""
    nsys = find_nsys()
    if nsys is None:
        evidence.add("graphs", nsys="nsys is not installed: node mode was not recorded")
        return
    program = [sys.executable, "-m", "benchmarks.gpu_evidence.graphs"]
    for command in (profile_command(nsys, folder, program), export_command(nsys, folder)):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_NSYS_S, check=False)
        except subprocess.TimeoutExpired:
            evidence.add("graphs", nsys=f"{command[1]} took more than {_NSYS_S} s")
            return
        if done.returncode:
            evidence.add("graphs", nsys=f"{command[1]} ended with {done.returncode}: {done.stderr[-300:]}")
            return
    compare(evidence, "nsys_node_mode", split_counts(folder / "trace.sqlite"), gpu, version)


def replay(graphs: list[tuple[Any, tuple[Any, ...]]]) -> None:
    """Replays each graph as often as is compared."""
    import torch

    for graph, _tensors in graphs:
        for _ in range(_REPLAYS):
            graph.replay()
    torch.cuda.synchronize()


def capture(seqlen_k: int) -> tuple[Any, tuple[Any, ...]]:
    """A CUDA graph of a step's scaled_dot_product_attention calls on the flash backend, and its tensors."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, _HEADS, 1, _HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    shape_k = (1, _HEADS_K, seqlen_k, _HEAD_DIM)
    k, v = (torch.randn(shape_k, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def attend() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            attend()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = [attend() for _ in range(_LAYERS)]
    return graph, (q, k, v, *outs)


def main() -> None:
    """What nsys records: the captures and their replays, the calls before the capture included."""
    replay([capture(seqlen_k) for seqlen_k in _LENGTHS])


if __name__ == "__main__":
    main()
