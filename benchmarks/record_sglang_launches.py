"""Records what the FlashAttention-3 of an sglang-kernel wheel launches, without a GPU.

    python benchmarks/record_sglang_launches.py EXTENSION RECORDER OUT.jsonl.gz

EXTENSION is ``sgl_kernel/flash_ops.abi3.so`` of the wheel; RECORDER as in record_vllm_launches.py. Each GPU
is a process of its own. Calls are those of SGLang's backend fa3 to ``sgl_kernel::fwd``: packed queries over a
paged cache, a page table as wide as the longest request, keys of every request counted, ``q_v`` for latents.
With --more, the rest of that backend's: packed keys without pages (prompts of MLA by head, embeddings),
decode steps with the plan that SGLang makes once a step, and caches on GPUs before Hopper.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from record_vllm_launches import GPUS, HEADS, LENGTHS
from recorded_launches import RecordingRuntime, device, record_gpus, write_row

FACTS = {name: facts for name, facts in GPUS.items() if facts[0] == 9}
MORE_FACTS = {name: facts for name, facts in GPUS.items() if facts[0] in (8, 9)}
_MOST_ELEMENTS = 2**26


class SglangRecorder(RecordingRuntime):
    """The extension instead of vLLM's package."""

    def __init__(self, extension: Path, recorder: Path) -> None:
        super().__init__(recorder)
        self.torch.ops.load_library(str(extension))

    def run(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if call["page_block_size"] is None:
            return self.run_packed(call)
        torch, batch, page = self.torch, call["batch"], call["page_block_size"]
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}[call["dtype"]]
        heads_k, dim, dim_v = call["num_heads_k"], call["head_dim"], call["head_dim_v"] or call["head_dim"]
        tokens, pages = call["total_q"], -(-call["seqlen_k"] // page)

        def empty(*shape: int, kind: Any = dtype) -> Any:
            return torch.empty(shape, dtype=kind, device="cuda")

        def ints(*shape: int) -> Any:
            return empty(*shape, kind=torch.int32)

        q, k, v = (
            empty(tokens, call["num_heads"], dim),
            empty(4, page, heads_k, dim),
            empty(4, page, heads_k, dim_v),
        )
        qv = empty(tokens, call["num_heads"], dim_v) if call["has_qv"] else None
        plan = None
        if call.get("scheduler_metadata"):
            plan = torch.ops.sgl_kernel.get_scheduler_metadata(
                batch, 1, call["seqlen_k"], call["num_heads"], heads_k, dim, dim, dtype, ints(batch),
                ints(batch + 1), None, None, None, None, page, 0, True, -1, -1, 0, call["softcap"] > 0,
                call["num_splits_arg"], None, 0,
            )  # fmt: skip
        self.library.recorder_reset()
        try:
            torch.ops.sgl_kernel.fwd.default(
                q, k, v, *[None] * 2, qv, None, ints(batch + 1), None, ints(batch + 1), None, ints(batch),
                call["seqlen_q"], None, ints(batch, pages), *[None] * 8, 0.1, call["causal"],
                call["window_left"], call["window_right"], 0, call["softcap"], False, plan,
                call["num_splits_arg"], None, 0, None, None, False,
            )  # fmt: skip
        except RuntimeError as error:
            return refusal(error)
        return {"error": None, "launches": self.launches()}

    def run_packed(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """As sgl_kernel's flash_attn_varlen_func."""
        torch, batch, heads_k = self.torch, call["batch"], call["num_heads_k"]
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[call["dtype"]]
        dim, dim_v = call["head_dim"], call["head_dim_v"] or call["head_dim"]

        def empty(*shape: int, kind: Any = dtype) -> Any:
            return torch.empty(shape, dtype=kind, device="cuda")

        keys = batch * call["seqlen_k"]
        starts = empty(batch + 1, kind=torch.int32)
        q, k = empty(call["total_q"], call["num_heads"], dim), empty(keys, heads_k, dim)
        v = empty(keys, heads_k, dim_v)
        self.library.recorder_reset()
        splits = {0: 1, -1: 0}.get(
            call["num_splits_arg"], call["num_splits_arg"]
        )  # 0: the function's default
        try:
            torch.ops.sgl_kernel.fwd.default(
                q, k, v, *[None] * 4, starts, starts, *[None] * 3, call["seqlen_q"], call["seqlen_k"],
                *[None] * 9, 0.1, call["causal"], call["window_left"], call["window_right"], 0,
                call["softcap"], False, None, splits, None, 0, None, None, False,
            )  # fmt: skip
        except RuntimeError as error:
            return refusal(error)
        return {"error": None, "launches": self.launches()}


def refusal(error: RuntimeError) -> dict[str, Any] | None:
    """The first line of a refusal; None of a check that names the checked expression."""
    first = str(error).partition("\n")[0]
    return None if "INTERNAL ASSERT" in first else {"error": first, "launches": []}


def calls(gpu: str, count: int) -> list[dict[str, Any]]:
    draw = random.Random(f"sglang {gpu}")
    found = []
    for number in range(count):
        latent = number % 3 == 0
        heads, heads_k = (draw.choice((16, 16, 64, 128)), 1) if latent else draw.choice(HEADS)
        queries = draw.choice((1, 1, 1, 1, 2, 4, 64, 129, 512))
        batch, window = draw.choice((1, 2, 4, 8, 33, 64, 256)), draw.choice((-1, -1, -1, 127, 1023))
        page = draw.choice((1, 1, 64, 128))
        dim = 64 if latent else draw.choice((64, 64, 96, 128, 128, 128, 192, 256))
        keys = -(-max(queries, draw.choice(LENGTHS)) // page) * page
        found.append(
            {
                "version": "sglang-kernel-0.4.10", "batch": batch, "seqlen_q": queries, "seqlen_k": keys,
                "total_q": batch * queries, "num_heads": heads, "num_heads_k": heads_k, "head_dim": dim,
                "head_dim_v": 512 if latent else None, "has_qv": latent,
                "dtype": draw.choice(("bf16", "bf16", "fp16") if latent else ("bf16", "bf16", "fp16", "fp8")),
                "causal": draw.random() < 0.9,
                "window_left": -1 if latent else window, "window_right": -1 if latent or window < 0 else 0,
                "softcap": 0.0 if latent else draw.choice((0.0, 0.0, 0.0, 30.0)),
                "num_splits_arg": draw.choice((0, 0, 0, 1)), "page_block_size": page, "cache_seqlens": True,
            }
        )  # fmt: skip
    return found


def more_calls(gpu: str, count: int) -> list[dict[str, Any]]:
    draw = random.Random(f"sglang more {gpu}")
    found = []
    for number in range(count):
        hopper = GPUS[gpu][0] == 9
        kind = (
            ("latents by head", "packed", "planned")[number % 3]
            if hopper
            else ("packed", "cache")[number % 2]
        )
        heads, heads_k = draw.choice(HEADS)
        keys = draw.choice(LENGTHS)
        queries = min(keys, draw.choice((1, 2, 63, 128, 129, 512, 2048)))
        dim, dim_v = draw.choice((64, 64, 96, 128, 128, 192, 256)), None
        page, splits, window = None, draw.choice((0, 0, 1, -1)), draw.choice((-1, -1, -1, 127, 1023))
        if kind == "latents by head":
            heads = heads_k = draw.choice((8, 16, 32, 64, 128))
            dim, dim_v, splits, window = 192, 128, 0, -1
        elif kind in ("planned", "cache"):
            page, splits = draw.choice((1, 1, 16, 64, 128)), draw.choice((0, 0, 0, 1))
            keys = -(-keys // page) * page
        if kind == "planned":
            queries, window = 1, -1
        elif draw.random() < 0.5:
            queries = keys if keys <= 4096 else queries
        batch = draw.choice((1, 2, 4, 8, 33, 64, 256))
        found.append(
            {
                "version": "sglang-kernel-0.4.10", "batch": batch, "seqlen_q": queries, "seqlen_k": keys,
                "total_q": batch * queries, "num_heads": heads, "num_heads_k": heads_k, "head_dim": dim,
                "head_dim_v": dim_v, "dtype": draw.choice(("bf16", "bf16", "fp16")), "has_qv": False,
                "causal": kind == "planned" or draw.random() < 0.7,
                "window_left": window, "window_right": 0 if window >= 0 else -1,
                "softcap": 0.0 if dim_v else draw.choice((0.0, 0.0, 0.0, 30.0)),
                "num_splits_arg": splits, "page_block_size": page, "cache_seqlens": page is not None,
                "scheduler_metadata": kind == "planned",
            }
        )  # fmt: skip
    return found


def one_gpu(options: argparse.Namespace) -> None:
    recorder = SglangRecorder(options.extension, options.recorder)
    gpu = device(options.gpu, GPUS[options.gpu])
    for call in (more_calls if options.more else calls)(options.gpu, options.count):
        dim = call["head_dim_v"] or call["head_dim"]
        keys = 0 if call["page_block_size"] else call["batch"] * call["seqlen_k"] * call["num_heads_k"]
        if max(call["total_q"] * call["num_heads"], keys) * dim > _MOST_ELEMENTS:
            continue
        expect = recorder.run(call)
        entry = "fwd_kvcache" if call["page_block_size"] else "varlen_fwd"
        row = {"library": "flash_attn_3", "entry": entry, **call, "device": gpu}
        if expect is not None:
            write_row({"call": row, "expect": expect})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("extension", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--gpu")
    options = parser.parse_args()
    if options.gpu:
        one_gpu(options)
        return
    record_gpus(__file__, MORE_FACTS if options.more else FACTS, options.recorder, options.out)


if __name__ == "__main__":
    main()
