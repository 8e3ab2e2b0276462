"""Step e: a CUDA graph freezes the split count chosen at capture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from attnprof.dispatch import predict
from attnprof.model import AttentionCall
from attnprof.observe import observe
from attnprof.timeline import build_timeline
from attnprof.trace.open import open_trace
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.profiled import profiling
from benchmarks.gpu_evidence.trim import trim_trace

_LENGTHS = (128, 1024, 4096)
_REPLAYS = 3


def run(evidence: Evidence) -> None:
    """Captures a decode call at each length; every replay must launch what the capture chose."""
    gpu, version = evidence.environment()
    rows: list[dict[str, Any]] = []
    wrong = 0
    for seqlen_k in _LENGTHS:
        graph, _tensors = capture(seqlen_k)  # the tensors live as long as the graph
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            with profiling(trace):
                for _ in range(_REPLAYS):
                    graph.replay()
            observed = observe(build_timeline(open_trace(trace)))
            trim_trace(trace, evidence.out / f"graph_{seqlen_k}.json.gz")
        call = AttentionCall("torch", "fwd", 1, 1, seqlen_k, 28, 4, 128)
        expected = predict(call, gpu, version).num_splits
        seen = [observed.shapes[shape].num_splits for shape in observed.shape.tolist()]
        wrong += seen != [expected] * _REPLAYS
        rows.append(
            {"captured_seqlen_k": seqlen_k, "predicted_num_splits": expected, "replayed_num_splits": seen}
        )
        evidence.add("graphs", rows=rows, mismatches=wrong)


def capture(seqlen_k: int) -> tuple[Any, tuple[Any, ...]]:
    """A CUDA graph of one scaled_dot_product_attention call on the flash backend, and its tensors."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, 28, 1, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, 4, seqlen_k, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))

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
            out = attend()
    return graph, (q, k, v, out)
