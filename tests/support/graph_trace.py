"""Generations on an H100 whose decode is a CUDA graph, captured for one KV length and replayed for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.build_trace import TraceBuilder, global_tid

H100 = gpu_by_name("h100")
H100_FIELDS = {"id": 0, "name": "NVIDIA H100 80GB HBM3", "smCount": 132, "computeMajor": 9, "computeMinor": 0}
LAYERS = 3
_MLP = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(Params)"


@dataclass
class GraphTrace:
    """Builds the trace of a generation step by step; NVTX ranges are attnprof's own."""

    builder: TraceBuilder = field(default_factory=TraceBuilder)
    time: int = 1_000
    correlation: int = 1
    step: int = 0
    seq: int = 0
    layers_named: bool = True
    kernel_ns: int = 400
    captured: list[tuple[int, str, tuple[int, int, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.builder.add("TARGET_INFO_GPU", vmId=1, cuDevice=0, **H100_FIELDS)
        self.builder.domain("attnprof", 1)

    def eager(self, seqlen_q: int, seqlen_k: int) -> None:
        """A forward whose kernels are launched one by one."""
        began = self.time
        for layer in range(LAYERS):
            opened = attended = self.time
            for name, grid in self._kernels(seqlen_q, seqlen_k):
                attended = self.time
                self.builder.call(self.time + 10, self.time + 20, self.correlation)
                start = self.time + 500
                self.builder.kernel(name, start, start + self.kernel_ns, self.correlation, grid=grid)
                self.correlation, self.time = self.correlation + 1, self.time + 1_000
            self._ranges(layer, opened, attended)
        self._step("prefill" if seqlen_q > 1 else "decode", began)

    def capture(self, seqlen_k: int, *, nodes: bool = True) -> None:
        """Captures a forward for this length: launches without kernels, and the nodes they made."""
        self.captured = []
        for layer in range(LAYERS):
            opened = attended = self.time
            for name, grid in self._kernels(1, seqlen_k):
                attended = self.time
                self.builder.call(self.time + 10, self.time + 20, self.correlation)
                node = len(self.captured) + 1
                if nodes:
                    self._node(self.time + 12, node, None)
                    self._node(90_000_000, 1 << 40 | node, node)  # the clone that instantiating makes
                self.captured.append((1 << 40 | node, name, grid))
                self.correlation, self.time = self.correlation + 1, self.time + 30
            self._ranges(layer, opened, attended)

    def replay(self) -> None:
        """A decode step that is one graph launch."""
        began = self.time
        self.builder.call(self.time + 10, self.time + 40, self.correlation, name="cudaGraphLaunch_v10000")
        for node, name, grid in self.captured:
            start = self.time + 500
            self.builder.kernel(name, start, start + 400, self.correlation, grid=grid, graphNodeId=node)
            self.time += 500
        self.correlation, self.time = self.correlation + 1, self.time + 1_000
        self._step("decode", began)

    def write(self, path: Path) -> Path:
        return self.builder.write(path)

    def _kernels(self, seqlen_q: int, seqlen_k: int) -> list[tuple[str, tuple[int, int, int]]]:
        call = AttentionCall("flash_attn", "fwd", 1, seqlen_q, seqlen_k, 28, 4, 128, causal=True)
        return [*((one.kernel, one.grid) for one in predict(call, H100).launches), (_MLP, (32, 1, 1))]

    def _ranges(self, layer: int, opened: int, attended: int) -> None:
        """The layer's ranges; that of the attention call ends before the last kernel, the MLP's."""
        if self.layers_named:
            self.builder.range("layer", opened, self.time, domainId=1, int64Value=layer)
            self.builder.range("attn", opened + 1, attended, domainId=1, int64Value=self.seq)
        self.seq += 1
        self.time += 10

    def _step(self, phase: str, began: int) -> None:
        self.builder.range(phase, began - 5, self.time, domainId=1, int64Value=self.step)
        self.step += 1
        self.time += 100

    def _node(self, start: int, node: int, original: int | None) -> None:
        self.builder.add(
            "CUDA_GRAPH_NODE_EVENTS", start=start, end=start, eventClass=94, globalTid=global_tid(7, 7),
            nameId=self.builder.string("cudaGraphNodeCreate"), graphNodeId=node, originalGraphNodeId=original,
        )  # fmt: skip


def replayed(path: Path, *, prompt: int, captured_for: int, steps: int, nodes: bool = True) -> Path:
    """A prefill, a capture, and as many replays of it; with ``nodes`` the capture was recorded."""
    made = GraphTrace()
    made.eager(prompt, prompt)
    made.capture(captured_for, nodes=nodes)
    for _ in range(steps):
        made.replay()
    return made.write(path)
