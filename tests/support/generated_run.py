"""Runs of 28/4 heads x 128 on an H100, whose attention kernels are the predicted ones in nsys's spelling."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.runs import run_folders
from attnprof.runs.ingest import finish, no_trace
from attnprof.runs.run_builder import new_run
from attnprof.trace.open_trace import open_trace
from tests.support.build_trace import TraceBuilder

H100 = gpu_by_name("h100")
Spoil = Callable[[list[KernelLaunch]], list[KernelLaunch]]


@dataclass(frozen=True)
class OtherKernel:
    """A kernel that each layer launches after its attention."""

    name: str
    decode_ns: int
    prefill_ns: int
    stream: int = 7


LAYER_KERNELS = (
    OtherKernel("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(Params)", 9_000, 60_000),
    OtherKernel("void gemvNSP_kernel<__nv_bfloat16, 1, 32, 4>(Params)", 14_000, 30_000),
    OtherKernel("void at::native::vectorized_elementwise_kernel<4, silu>(int)", 1_900, 9_000),
    OtherKernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgs)", 6_000, 20_000, 19),
)


def decode_call(seqlen_k: int, seqlen_q: int = 1) -> AttentionCall:
    return AttentionCall("flash_attn", "fwd", 1, seqlen_q, seqlen_k, 28, 4, 128, causal=True)


def record_of(seq: int, step: int, layer: int, call: AttentionCall, phase: str = "decode") -> dict[str, Any]:
    packed = {
        "q": [1, 28, 128], "k": [call.seqlen_k, 4, 128], "v": [call.seqlen_k, 4, 128], "batch": 1,
        "max_seqlen_q": 1, "max_seqlen_k": call.seqlen_k, "block_table": None, "cu_seqlens_q": [0, 1],
        "cu_seqlens_k": [0, call.seqlen_k],
    }  # fmt: skip
    return {
        "seq": seq, "step": step, "phase": phase, "layer": layer, "library": "flash_attn",
        "function": f"flash_attn_2_cuda.{call.entry}", "entry": call.entry, "backend": None,
        "device": "cuda:0", "dtype": call.dtype, "q": [1, call.seqlen_q, 28, 128],
        "k": [1, call.seqlen_k, 4, 128], "v": [1, call.seqlen_k, 4, 128],
        "layout": "bshd", "causal": True, "window": [-1, -1], "softcap": 0.0, "dropout_p": 0.0,
        "alibi": False, "return_softmax": False, "scale": None,
        **(packed if call.entry == "varlen_fwd" else {}),
    }  # fmt: skip


def generated_run(
    folder: Path,
    steps: range,
    *,
    spoil: dict[int, Any] | None = None,
    records: bool = True,
    layers: int = 2,
    prefill: int = 0,
    others: Sequence[OtherKernel] = (),
    attention_ns: Callable[[AttentionCall], int] = lambda _call: 400,
    name: str = "generated",
    config: dict[str, Any] | None = None,
    make: Callable[[int], AttentionCall] = decode_call,
    version: str = "2.8.3",
) -> Path:
    """A run with one decode step per KV length in ``steps``, after a prefill of ``prefill`` tokens if any.

    ``spoil`` maps a sequence number to a change of its launches. ``make`` gives the call for so many keys.
    """
    builder = TraceBuilder()
    builder.add(
        "TARGET_INFO_GPU", vmId=1, id=0, name="NVIDIA H100 80GB HBM3", smCount=132, cuDevice=0,
        computeMajor=9, computeMinor=0,
    )  # fmt: skip
    builder.domain("attnprof", 1)
    forwards = [("prefill", 0, decode_call(prefill, prefill))] if prefill else []
    forwards += [("decode", step, make(keys)) for step, keys in enumerate(steps, start=1)]
    time, correlation, seq, lines = 1000, 1, 0, []
    for phase, step, call in forwards:
        began = time
        for layer in range(layers):
            launches = list(predict(call, H100, version).launches)
            launches = (spoil or {}).get(seq, lambda same: same)(launches)
            opened = time
            for launch in launches:
                builder.call(time + 10, time + 20, correlation)
                end = time + 500 + attention_ns(call)
                builder.kernel(
                    launch.kernel, time + 500, end, correlation, grid=launch.grid, block=launch.block
                )
                time = end + 100
                correlation += 1
            builder.range("attn", opened, time, domainId=1, int64Value=seq)
            for other in others:
                builder.call(time + 10, time + 20, correlation)
                end = time + 500 + (other.prefill_ns if phase == "prefill" else other.decode_ns)
                builder.kernel(other.name, time + 500, end, correlation, streamId=other.stream)
                time = end + 100
                correlation += 1
            builder.range("layer", opened - 1, time + 1, domainId=1, int64Value=layer)
            lines.append(json.dumps(record_of(seq, step, layer, call, phase)))
            time += 10
            seq += 1
        builder.range(phase, began - 5, time, domainId=1, int64Value=step)
        time += 100
    path = builder.write(folder / "trace.sqlite")
    with new_run(name) as run:
        if records:
            (run.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        known = {"kind": "run", "predict": {"library": "flash_attn", "version": version}}
        return finish(run, open_trace(path), known | (config or {}))


def calls_only_run(name: str, steps: range, *, layers: int = 2) -> Path:
    """A run as ``--capture none`` leaves it: attention calls on the CPU, no profiler and no kernel."""
    wheres = ((step, layer, keys) for step, keys in enumerate(steps, start=1) for layer in range(layers))
    lines = [
        json.dumps(record_of(seq, step, layer, decode_call(keys)) | {"device": "cpu"})
        for seq, (step, layer, keys) in enumerate(wheres)
    ]
    with new_run(name) as run:
        (run.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        return finish(run, no_trace(), {"kind": "run", "capture": {"recorder": "none"}})
