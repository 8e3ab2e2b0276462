"""Records what FlashMLA's extensions of a wheel launch, without a GPU.

    python benchmarks/record_flash_mla.py PACKAGE RECORDER tests/data/golden/flash_mla_VERSION.jsonl.gz

PACKAGE holds ``_flashmla_C.abi3.so`` and ``_flashmla_extension_C.abi3.so`` of vllm's wheel, or
``flashmla_ops.abi3.so`` of sglang-kernel's, or ``_C_legacy.abi3.so`` of sgl-flash-mla's; RECORDER as in
record_vllm_launches.py. Each GPU is a process of its own. A row: the call, its GPU, and the launches as
[kernel, grid, block, shared memory], of a message the text behind function, file and line. Names go without
their parameters, and of a template whose further arguments are tensor maps the first alone. Of the metadata
kernel, ``block``, ``overhead`` and ``parts`` are what the host hands it.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

GPUS = {  # compute capability, SMs
    "h100": (9, 0, 132), "h20": (9, 0, 78), "b200": (10, 0, 148), "b300": (10, 3, 160), "5090": (12, 0, 170),
}  # fmt: skip
COUNTS = {
    "dense": 60, "dense_fp8": 30, "sparse": 90, "sparse_prefill": 70, "prefill": 60, "sparse_extra": 60,
}  # fmt: skip
_MADE_FOR = {
    "dense": (9,), "dense_fp8": (9,), "sparse": (9, 10), "sparse_prefill": (9, 10), "prefill": (10,),
    "sparse_extra": (9, 10),
}  # fmt: skip
_SGL, _LEGACY, _PLAN_APART = "flashmla_ops.abi3.so", "_C_legacy.abi3.so", 30
BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352, "v4": 584, "v4.1": 528}  # of a token in the cache
_PAGE, _V4_STRIDE = 64, 576
_WHERE = re.compile(r"^(?:[\w:]+, /\S+?:\d+, |Assertion error \(\S+?\): )")
_NO_MEMORY = ("aten::new_empty", "CUDACachingAllocator")  # of the recorded device
_BATCHES = (1, 2, 3, 4, 7, 16, 31, 64, 129, 256, 511)


def calls(gpu: str, *, sgl: bool = False) -> list[dict[str, Any]]:
    """Of sglang-kernel also dense decode whose plan is made apart, as SGLang does."""
    drawn = _calls(gpu)
    if sgl and GPUS[gpu][0] == 9:
        draw = random.Random(f"flash_mla plan apart {gpu}")
        drawn += [{"kind": "dense_apart", **_dense(draw)} for _ in range(_PLAN_APART)]
    return drawn


def _calls(gpu: str) -> list[dict[str, Any]]:
    draw = random.Random(f"flash_mla {gpu}")
    makers = {
        "dense": _dense, "dense_fp8": _dense, "sparse": _sparse, "sparse_prefill": _sparse_prefill,
        "prefill": _prefill, "sparse_extra": _sparse_extra,
    }  # fmt: skip
    major = GPUS[gpu][0]
    return [
        {"kind": kind, **makers[kind](draw)}
        for kind, count in COUNTS.items()
        if kind != "prefill" or major == 10  # which asks for no GPU of its own
        for _ in range(count if major in _MADE_FOR[kind] else 2)
    ]


def _dense(draw: random.Random) -> dict[str, Any]:
    heads = draw.choice(((128, 1), (64, 1), (16, 1), (8, 1), (20, 1), (32, 2), (16, 16)))
    return {
        "batch": draw.choice((0, *_BATCHES)), "seqlen_q": draw.choice((1, 1, 2, 3, 5, 33)),
        "num_heads": heads[0], "num_heads_k": heads[1], "head_dim": draw.choice((576, 576, 576, 512)),
        "dtype": draw.choice(("bf16", "fp16")), "causal": draw.random() < 0.7,
    }  # fmt: skip


def _sparse(draw: random.Random) -> dict[str, Any]:
    kept = draw.choice(("fp8_ds_mla", "fp8_ds_mla", "fp8_ds_mla", "nvfp4_ds_mla", "v4", "v4.1"))
    return {
        "batch": draw.choice(_BATCHES), "seqlen_q": draw.choice((1, 1, 1, 2, 4, 200)),
        "num_heads": draw.choice((64, 128, 64, 128, 64, 128, 16)), "cache": kept,
        "topk": draw.choice((2048, 2048, 2048, 1024, 704, 640, 576, 512, 128, 64, 64, 100)),
        "topk_length": draw.random() < 0.25, "sinks": draw.random() < 0.2,
        "batch_invariant": draw.random() < 0.1,
    }  # fmt: skip


def _sparse_extra(draw: random.Random) -> dict[str, Any]:
    """DeepSeek V4's: a cache of compressed keys beside the window's."""
    kept = draw.choice(("v4", "v4", "v4.1", "fp8_ds_mla"))
    return _sparse(draw) | {
        "cache": kept, "num_heads": draw.choice((64, 128)),
        "topk": draw.choice((64, 128, 128, 512, 640, 100)),
        "extra_topk": draw.choice((64, 128, 512, 512, 576, 1024, 2048, 100)),
        "extra_length": draw.random() < 0.5,
    }  # fmt: skip


def _sparse_prefill(draw: random.Random) -> dict[str, Any]:
    return {
        "tokens": draw.choice((1, 2, 64, 300, 2049, 8192)),
        "num_heads": draw.choice((8, 16, 32, 64, 128, 128, 96)),
        "head_dim": draw.choice((576, 576, 512)),
        "topk": draw.choice((2048, 2048, 1280, 1408, 512, 128, 64, 100)),
        "topk_length": draw.random() < 0.5, "sinks": draw.random() < 0.2,
    }  # fmt: skip


def _prefill(draw: random.Random) -> dict[str, Any]:
    heads, heads_k = draw.choice(((128, 128), (16, 16), (16, 4), (8, 1)))
    queries = draw.choice((1, 7, 128, 255, 256, 257, 512, 2000))
    return {
        "batch": draw.choice((1, 2, 3, 16, 64)), "seqlen_q": queries,
        "seqlen_k": queries + draw.choice((0, 0, 1, 3000)), "num_heads": heads, "num_heads_k": heads_k,
        "dims": draw.choice((*((192, 128),) * 4, *((128, 128),) * 3, (96, 96))),
        "causal": draw.random() < 0.7,
    }  # fmt: skip


def shortened(name: str) -> str:
    """Without return type and parameters, and before tensor maps the first template argument alone."""
    name = name.removeprefix("void ")
    head, opening, rest = name.partition("<")
    if not opening or "device_kernel" in head:
        return name.partition("(")[0] if not opening else _functor(name)
    depth, first, end = 1, len(rest), len(rest)
    for at, letter in enumerate(rest):
        depth += (letter in "<({") - (letter in ">)}")
        if letter == "," and depth == 1:
            first = min(first, at)
        if depth == 0:
            end = at
            break
    inner = (rest[:first] if "TmaParams" in rest[:end] else rest[:end]).strip()
    return f"{head}<{inner}{' ' * inner.endswith('>')}>"


def _functor(name: str) -> str:
    """Of a CUTLASS kernel what varies: main loop, mask and scheduler."""
    patterns = (r"Sm100\w+Mainloop\w+", r"\w+Mask\b(?:<\w+>)?", r"kernel::(\w+Scheduler)")
    return "/".join(re.findall(pattern, name)[0] for pattern in patterns)


class Recorder:
    """Calls the wheel's operators and takes what was launched from the recording runtime."""

    older = False

    def __init__(self, package: Path, recorder: Path) -> None:
        import torch

        torch.cuda.init()
        self.legacy = (package / _LEGACY).exists()
        self.torch, self.sgl = torch, self.legacy or (package / _SGL).exists()
        vllms = ("_flashmla_C.abi3.so", "_flashmla_extension_C.abi3.so")
        for extension in (_LEGACY,) if self.legacy else (_SGL,) if self.sgl else vllms:
            torch.ops.load_library(str(package / extension))
        self.ops = self.extension = torch.ops.flash_mla_legacy if self.legacy else torch.ops.sgl_kernel
        if not self.sgl:
            self.ops, self.extension = torch.ops._flashmla_C, torch.ops._flashmla_extension_C
        self.library = ctypes.CDLL(str(recorder.resolve() / "cuda_recorder.so"))
        self.library.recorder_name.restype = ctypes.c_char_p
        self.demangle = getattr(ctypes.CDLL("libstdc++.so.6"), "__cxa_demangle")
        self.demangle.restype = ctypes.c_char_p

    def empty(self, *size: int, dtype: str = "bfloat16") -> Any:
        return self.torch.empty(size, dtype=getattr(self.torch, dtype), device="cuda")

    def ints(self, *size: int) -> Any:
        return self.empty(*size, dtype="int32")

    def run(self, call: dict[str, Any]) -> dict[str, Any]:
        fields = dict(call)
        make = getattr(self, f"_{fields.pop('kind')}")
        self.library.recorder_reset()
        try:
            make(**fields)
        except RuntimeError as error:
            return {"error": _said(str(error).partition("\n")[0])}
        return self._launches()

    def _launches(self) -> dict[str, Any]:
        found: dict[str, Any] = {"launches": []}
        for number in range(self.library.recorder_count()):
            sizes, given = (ctypes.c_ulong * 7)(), (ctypes.c_int * 20)()
            mangled = self.library.recorder_name(number)
            name = (self.demangle(mangled, None, None, None) or mangled).decode()
            if "at::native" in name:
                continue
            self.library.recorder_sizes(number, sizes)
            found["launches"].append([shortened(name), list(sizes[:3]), list(sizes[3:6]), sizes[6]])
            if "metadata" in name:
                self.library.recorder_argument(number, given)
                found |= _given(name, list(given), five=self.sgl or self.older)
        return found

    def _dense(self, batch: int, seqlen_q: int, num_heads: int, num_heads_k: int, head_dim: int, dtype: str,
               causal: bool) -> None:  # fmt: skip
        kind = {"bf16": "bfloat16", "fp16": "float16"}[dtype]
        self.ops.dense_decode_fwd(
            self.empty(batch, seqlen_q, num_heads, head_dim, dtype=kind),
            self.empty(4, _PAGE, num_heads_k, head_dim, dtype=kind), 512, self.ints(batch),
            self.ints(batch, 4), 0.1, causal, None, None, *(() if self.sgl else (None,)),
        )  # fmt: skip

    def _dense_apart(self, batch: int, seqlen_q: int, num_heads: int, num_heads_k: int, head_dim: int,
                     dtype: str, causal: bool) -> None:  # fmt: skip
        kind = {"bf16": "bfloat16", "fp16": "float16"}[dtype]
        plan = self.ops.get_mla_decoding_metadata(
            self.ints(batch), seqlen_q * num_heads // num_heads_k, num_heads_k, num_heads, False, None
        )
        self.ops.fwd_kvcache_mla(
            self.empty(batch, seqlen_q, num_heads, head_dim, dtype=kind),
            self.empty(4, _PAGE, num_heads_k, head_dim, dtype=kind), 512, self.ints(batch),
            self.ints(batch, 4), 0.1, causal, *plan, False, None, None, None, None, None, None,
        )  # fmt: skip

    def _dense_fp8(self, batch: int, seqlen_q: int, num_heads: int, num_heads_k: int, head_dim: int,
                   dtype: str, causal: bool) -> None:  # fmt: skip
        plan = self.extension.get_mla_decoding_metadata_dense_fp8(
            self.ints(batch), seqlen_q * num_heads // num_heads_k, num_heads_k
        )
        e4m3, scale = "float8_e4m3fn", self.empty(1, dtype="float32")
        self.extension.fwd_kvcache_mla_fp8(
            self.empty(batch, seqlen_q, num_heads, head_dim, dtype=e4m3),
            self.empty(4, _PAGE, num_heads_k, head_dim, dtype=e4m3), 512, self.ints(batch),
            self.ints(batch, 4), 0.1, causal, *plan, scale, scale,
        )  # fmt: skip

    def _sparse(self, batch: int, seqlen_q: int, num_heads: int, cache: str, topk: int, topk_length: bool,
                sinks: bool, batch_invariant: bool, extra_topk: int = 0, extra_length: bool = False,
                ) -> None:  # fmt: skip
        extra = (
            (
                self._pages(cache),
                self.ints(batch, seqlen_q, extra_topk),
                self.ints(batch) if extra_length else None,
            )
            if extra_topk
            else (None, None, None)
        )
        last = ({"v4.1": "V41"}.get(cache),) if self.sgl else (None, batch_invariant)
        if self.older:
            last = (None,)
        self.ops.sparse_decode_fwd(
            self.empty(batch, seqlen_q, num_heads, 576 if "mla" in cache else 512), self._pages(cache),
            self.ints(batch, seqlen_q, topk), self.ints(batch) if topk_length else None,
            self.empty(num_heads, dtype="float32") if sinks else None, None, None, *extra, 512, 0.1, *last,
        )  # fmt: skip

    _sparse_extra = _sparse

    def _pages(self, cache: str) -> Any:
        width = BYTES[cache]
        if cache != "v4":
            return self.empty(4, _PAGE, 1, width, dtype="uint8")
        # A page is rounded up to whole strides of the tensor map.
        stride = -(-_PAGE * width // _V4_STRIDE) * _V4_STRIDE
        return self.empty(4 * stride, dtype="uint8").as_strided(
            (4, _PAGE, 1, width), (stride, width, width, 1)
        )

    def _sparse_prefill(self, tokens: int, num_heads: int, head_dim: int, topk: int, topk_length: bool,
                        sinks: bool) -> None:  # fmt: skip
        self.ops.sparse_prefill_fwd(
            self.empty(tokens, num_heads, head_dim), self.empty(1024, 1, head_dim),
            self.ints(tokens, 1, topk), 0.1, 512, self.empty(num_heads, dtype="float32") if sinks else None,
            self.ints(tokens) if topk_length else None, *(() if self.sgl else (None,)),
        )  # fmt: skip

    def _prefill(self, batch: int, seqlen_q: int, seqlen_k: int, num_heads: int, num_heads_k: int,
                 dims: tuple[int, int], causal: bool) -> None:  # fmt: skip
        tokens, keys = batch * seqlen_q, batch * seqlen_k
        self.ops.dense_prefill_fwd(
            self.empty(1 << 25, dtype="uint8"), self.empty(tokens, num_heads, dims[0]),
            self.empty(keys, num_heads_k, dims[0]), self.empty(keys, num_heads_k, dims[1]),
            self.ints(batch + 1), self.ints(batch + 1), self.empty(tokens, num_heads, dims[1]),
            self.empty(num_heads, tokens, dtype="float32").T, int(causal), 0.1, seqlen_q, seqlen_k, True,
        )  # fmt: skip


def _said(message: str) -> str:
    """What a message says behind the place in the source; of an assertion its condition."""
    said = _WHERE.sub("", message)
    return said.partition(" failed")[0] if said.startswith("Assertion") else said


def _given(name: str, first: list[int], *, five: bool) -> dict[str, int]:
    """What the host hands the metadata kernel: keys of a block, blocks a start costs, parts."""
    # Before them the FP8 extension's has three pointers and the batch, the others' the batch and the queries.
    at = 7 if name.startswith("get_mla") else 2
    parts = 16 if five and at == 2 else at + 2  # behind both counts of keys and five pointers
    return {"block": first[at], "overhead": first[at + 1], "parts": first[parts]}


def one_gpu(options: argparse.Namespace) -> None:
    recorder = Recorder(options.package, options.recorder)
    recorder.older = options.older
    for call in calls(options.gpu, sgl=recorder.sgl):
        if recorder.legacy and call["kind"] in ("prefill", "dense_apart"):  # functions that it lacks
            continue
        if options.older and call["kind"].startswith("dense") and call["head_dim"] == 512:
            continue  # which ends the process
        expect = recorder.run(call)
        if not any(one in expect.get("error", "") for one in _NO_MEMORY):
            print("ROW " + json.dumps({"gpu": options.gpu, "call": call, "expect": expect}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpu")
    parser.add_argument("--older", action="store_true", help="the wheel of vllm 0.20.2")
    options = parser.parse_args()
    if options.gpu:
        one_gpu(options)
        return
    recorder, rows = options.recorder.resolve(), []
    for gpu, facts in GPUS.items():
        environment = os.environ | {
            "LD_PRELOAD": str(recorder / "cuda_recorder.so"), "LD_LIBRARY_PATH": str(recorder / "driver"),
            "RECORDED_GPU": ",".join(map(str, (*facts, 233472, 232448))), "RECORDED_ARGUMENT": "metadata",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--gpu", gpu],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        found = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
        print(f"{gpu}: {len(found)} rows", done.stderr[-300:] if done.returncode else "", file=sys.stderr)
        rows += found
    options.out.write_bytes(gzip.compress("".join(row + "\n" for row in rows).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
