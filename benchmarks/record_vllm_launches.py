"""Records what the FlashAttention extensions of a vllm wheel launch, without a GPU.

    python benchmarks/record_vllm_launches.py PACKAGE RECORDER OUT.jsonl.gz

PACKAGE is a folder with ``vllm_flash_attn/`` of the wheel: flash_attn_interface.py, _vllm_fa2_C.abi3.so,
_vllm_fa3_C.abi3.so and an empty __init__.py. RECORDER is a folder with cuda_recorder.so and
driver/libcuda.so.1, both built from cuda_recorder.cpp. The running Python has the CUDA build of torch that
the wheel requires. Each GPU is a process of its own. Calls go through vLLM's flash_attn_varlen_func; every
check, split count, template and grid is the wheel's. Kernels of torch that copy or fill are left out, and of
a message the function, file and line before it. With --mla, calls are those of the backend FLASH_ATTN_MLA:
one KV head, the rotated part of the queries and ``q_v``; with --mla-sparse, of FLASH_ATTN_MLA_SPARSE.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path
from typing import Any

from recorded_launches import RecordingRuntime, device, record_gpus, write_row

GPUS = {  # name: major, minor, SMs, shared memory per SM and per block
    "A100": (8, 0, 108, 167936, 166912), "A10": (8, 6, 72, 102400, 101376),
    "L40S": (8, 9, 142, 102400, 101376), "H100": (9, 0, 132, 233472, 232448),
    "H20": (9, 0, 78, 233472, 232448), "B200": (10, 0, 148, 233472, 232448),
    "RTX 5090": (12, 0, 170, 102400, 101376),
}  # fmt: skip
HEADS = ((28, 4), (32, 8), (32, 32), (64, 8), (14, 2), (8, 1), (40, 8), (12, 2))
_WHERE = re.compile(r"^\w+, /[^,]+:\d+, ")  # function, file and line before an extension's message
_MOST_ELEMENTS = 2**28
LENGTHS = (1, 16, 127, 128, 129, 511, 512, 513, 1024, 2048, 4095, 4096, 8192, 16385, 65536)


def calls(gpu: str, count: int) -> list[dict[str, Any]]:
    """Calls as vLLM's layers make them, drawn at random, with a few that are refused."""
    draw = random.Random(gpu)
    found = []
    for number in range(count):
        version = 3 if GPUS[gpu][0] == 9 and number % 3 else 2
        heads, heads_k = draw.choice(HEADS)
        queries = draw.choice((1, 1, 1, 2, 8, 9, 64, 129, 512))
        keys = max(queries, draw.choice(LENGTHS))
        window = draw.choice((-1, -1, -1, 127, 1023))
        found.append(
            {
                "version": f"fa{version}", "batch": draw.choice((1, 2, 4, 8, 33, 64, 256, 1000)),
                "seqlen_q": queries, "seqlen_k": keys, "num_heads": heads, "num_heads_k": heads_k,
                "head_dim": draw.choice((64, 64, 80, 96, 128, 128, 128, 192, 256)),
                "dtype": draw.choice(("bf16", "bf16", "fp16")), "causal": draw.random() < 0.8,
                "window_left": window, "window_right": -1 if window < 0 else 0,
                "softcap": draw.choice((0.0, 0.0, 0.0, 30.0)),
                "alibi": version == 2 and draw.random() < 0.1,
                "num_splits_arg": draw.choice((0, 0, 0, 1, 1 if version == 2 else 32)),
                "page_block_size": draw.choice((16, 16, 16, 32, 64, 128, None, 8)),
                "scheduler_metadata": version == 3 and draw.random() < 0.4,
            }
        )  # fmt: skip
    return found


def mla_calls(gpu: str, count: int) -> list[dict[str, Any]]:
    """Decode steps as FlashAttnMLAImpl.forward_mqa makes them, a few refused, and prompts of FLASH_ATTN's."""
    draw = random.Random(f"mla {gpu}")
    found = []
    for number in range(count):
        if number % 5 == 4:
            found.append(mla_prefill(draw))
            continue
        queries = draw.choice((1, 1, 1, 1, 2, 4, 9, 64, 512))
        found.append(
            {
                "version": "fa3", "batch": draw.choice((1, 2, 4, 8, 33, 64, 256, 1000)),
                "seqlen_q": queries, "seqlen_k": max(queries, draw.choice(LENGTHS)),
                "num_heads": draw.choice((1, 4, 8, 16, 16, 32, 64, 128, 128)), "num_heads_k": 1,
                "head_dim": draw.choice((64, 64, 64, 64, 32, 80)),
                "head_dim_v": draw.choice((512, 512, 512, 256)), "has_qv": True,
                "dtype": draw.choice(("bf16", "bf16", "fp16")), "causal": True,
                "window_left": -1, "window_right": -1, "softcap": 0.0, "alibi": False,
                "num_splits_arg": draw.choice((0, 0, 0, 1, 32, 32)),
                "page_block_size": draw.choice((16, 16, 32, 64, 64, 128)),
                "scheduler_metadata": draw.random() < 0.8,
            }
        )  # fmt: skip
    return found


def sparse_mla_calls(gpu: str, count: int) -> list[dict[str, Any]]:
    """Steps as FlashAttnMLASparseImpl makes them: each query a request, the keys picked its pages of 1."""
    draw = random.Random(f"sparse mla {gpu}")
    return [
        {
            "version": "fa3", "batch": draw.choice((1, 2, 7, 64, 300, 1000)), "seqlen_q": 1,
            "seqlen_k": draw.choice((512, 1024, 2048)), "num_heads": draw.choice((8, 16, 64, 128)),
            "num_heads_k": 1, "head_dim": 64, "head_dim_v": 512, "has_qv": True,
            "dtype": draw.choice(("bf16", "bf16", "fp16")), "causal": True, "window_left": -1,
            "window_right": -1, "softcap": 0.0, "alibi": False, "num_splits_arg": 0, "page_block_size": 1,
            "scheduler_metadata": False,
        }
        for _ in range(count)
    ]  # fmt: skip


def mla_prefill(draw: random.Random) -> dict[str, Any]:
    """New queries over their own keys, of every head: _flash_attn_varlen_diff_headdims."""
    tokens, heads = draw.choice((1, 64, 129, 512, 2048)), draw.choice((16, 16, 64, 128))
    return {
        "version": "fa3", "batch": draw.choice((1, 2, 4, 8)), "seqlen_q": tokens, "seqlen_k": tokens,
        "num_heads": heads, "num_heads_k": heads, "head_dim": 192, "head_dim_v": 128, "has_qv": False,
        "dtype": draw.choice(("bf16", "fp16")), "causal": draw.random() < 0.7, "window_left": -1,
        "window_right": -1, "softcap": 0.0, "alibi": False, "num_splits_arg": draw.choice((0, 1)),
        "page_block_size": None, "scheduler_metadata": False,
    }  # fmt: skip


class Recorder(RecordingRuntime):
    """The wheel's Python function on the preloaded runtime."""

    def __init__(self, package: Path, recorder: Path) -> None:
        super().__init__(recorder)
        sys.path.insert(0, str(package))
        import vllm_flash_attn.flash_attn_interface as interface

        assert interface.FA2_AVAILABLE
        assert interface.FA3_AVAILABLE
        self.interface = interface

    def run(self, call: dict[str, Any]) -> dict[str, Any] | None:
        torch, interface = self.torch, self.interface
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[call["dtype"]]
        batch, page, dim, heads_k = (call[n] for n in ("batch", "page_block_size", "head_dim", "num_heads_k"))

        def ints(*shape: int) -> Any:
            return torch.empty(shape, dtype=torch.int32, device="cuda")

        q = torch.empty((batch * call["seqlen_q"], call["num_heads"], dim), dtype=dtype, device="cuda")
        paged = page is not None
        pages = -(-call["seqlen_k"] // page) if paged else 0
        shape = (max(pages, 1), page, heads_k, dim) if paged else (batch * call["seqlen_k"], heads_k, dim)
        dim_v = call.get("head_dim_v", dim)
        k, v = (torch.empty((*shape[:-1], n), dtype=dtype, device="cuda") for n in (dim, dim_v))
        window = [call["window_left"], call["window_right"]]
        more: dict[str, Any] = {"cu_seqlens_k": ints(batch + 1)}
        if paged:
            more = {"seqused_k": ints(batch), "block_table": ints(batch, pages)}
        if call.get("has_qv"):
            more["q_v"] = torch.empty((*q.shape[:-1], dim_v), dtype=dtype, device="cuda")
        try:
            if call["scheduler_metadata"]:
                more["scheduler_metadata"] = interface.get_scheduler_metadata(
                    batch, call["seqlen_q"], call["seqlen_k"], call["num_heads"], heads_k, dim, ints(batch),
                    dtype, headdim_v=dim_v, cu_seqlens_q=ints(batch + 1), page_size=page,
                    causal=call["causal"], window_size=window,
                    has_softcap=call["softcap"] > 0, num_splits=call["num_splits_arg"],
                )  # fmt: skip
            self.library.recorder_reset()
            interface.flash_attn_varlen_func(
                q, k, v, call["seqlen_q"], ints(batch + 1), call["seqlen_k"], causal=call["causal"],
                window_size=window, softcap=call["softcap"], num_splits=call["num_splits_arg"],
                alibi_slopes=torch.empty(call["num_heads"], device="cuda") if call["alibi"] else None,
                fa_version=int(call["version"][-1]), **more,
            )  # fmt: skip
        except (RuntimeError, NotImplementedError) as error:
            first = str(error).partition("\n")[0]
            if "INTERNAL ASSERT" in first:  # the recorded device has no memory left
                return None
            return {"error": _WHERE.sub("", first), "launches": []}
        return {"error": None, "launches": self.launches()}


def one_gpu(options: argparse.Namespace) -> None:
    recorder = Recorder(options.package, options.recorder)
    gpu = device(options.gpu, GPUS[options.gpu])
    of_kind = sparse_mla_calls if options.mla_sparse else mla_calls if options.mla else calls
    for call in of_kind(options.gpu, options.count):
        keys = 1 if call["page_block_size"] else call["batch"]
        elements = max(
            keys * call["seqlen_k"] * call["num_heads_k"],
            call["batch"] * call["seqlen_q"] * call["num_heads"],
        )
        if elements * call["head_dim"] > _MOST_ELEMENTS:
            continue
        expect = recorder.run(call)
        if expect is None:
            continue
        row = {"library": "vllm_flash_attn", "entry": "varlen_fwd", **call, "device": gpu}
        write_row({"call": row, "expect": expect})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--mla", action="store_true")
    parser.add_argument("--mla-sparse", action="store_true")
    parser.add_argument("--gpu")
    options = parser.parse_args()
    if options.gpu:
        one_gpu(options)
        return
    hopper = options.mla or options.mla_sparse
    asked = {name: facts for name, facts in GPUS.items() if not hopper or facts[0] == 9}
    record_gpus(__file__, asked, options.recorder, options.out)


if __name__ == "__main__":
    main()
