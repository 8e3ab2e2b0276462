"""Records what the flash-attn-4 wheel would launch, without a GPU: golden rows for tests/data/golden.

    python -m benchmarks.record_flash_attn4 --arch 100 --rows 400 --out rows.jsonl [--vllm FOLDER]

It needs flash-attn-4 and nvidia-cutlass-dsl, one process per architecture. The wheel's ``_flash_attn_fwd``
runs on tensors without storage; its kernels' host code is traced up to each launch, where grid, block and
cluster are read off instead of compiling. Nothing of upstream is replaced but: the tensors it makes of
torch's have sizes written in, a compiled kernel is one that does nothing, and the SM count is the row's.
With ``--vllm`` the copy in a folder that holds ``vllm_flash_attn/cute`` is recorded instead.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import os
import random
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

SMS = {80: (108, 56), 86: (84,), 89: (142,), 90: (132, 114, 78), 100: (148, 152), 103: (148, 152), 110: (20,),
       120: (188, 170, 36), 121: (48,)}  # fmt: skip
_SUFFIX = {80: "", 86: "", 89: ""}
_GEOMETRIES = ((28, 4), (32, 8), (32, 32), (8, 1), (16, 2), (12, 4), (64, 8), (40, 8))
_DIMS = ((128, 128), (128, 128), (64, 64), (96, 96), (192, 128), (256, 256), (192, 192), (80, 80), (40, 40))


class Launched(BaseException):
    """Carries out of the trace what was about to be launched."""


def load(arch: int, vllm: Path | None) -> tuple[Any, Any, Any]:
    """(interface module, cute, torch) with the environment of a GPU that is not there."""
    name = f"sm_{arch}{_SUFFIX.get(arch, 'a')}"
    os.environ.update(FLASH_ATTENTION_ARCH=f"sm_{arch}", CUTE_DSL_ARCH=name, FLASH_ATTENTION_NUM_SMS="1")
    opened = ctypes.CDLL

    def without_driver(library: Any, *rest: Any, **options: Any) -> Any:
        if library and "libcuda.so" in str(library):
            raise OSError("there is no driver")
        return opened(library, *rest, **options)

    with mock.patch.object(ctypes, "CDLL", without_driver):
        import torch
        from cutlass import cute

    module = "flash_attn.cute"
    if vllm is not None:
        for parent, folder in (("vllm", vllm), ("vllm.vllm_flash_attn", vllm / "vllm_flash_attn")):
            package: Any = types.ModuleType(parent)
            package.__path__ = [str(folder)]
            sys.modules[parent] = package
        module = "vllm.vllm_flash_attn.cute"
    return importlib.import_module(f"{module}.interface"), cute, torch


class Recorder:
    """Runs calls of one architecture and reads off their launches."""

    def __init__(self, arch: int, vllm: Path | None) -> None:
        self.arch, self.num_sms = arch, 1
        self.interface, self.cute, self.torch = load(arch, vllm)
        self.launches: list[dict[str, Any]] = []
        self.integers: list[int] = []
        self.symbols: Iterator[int] = iter(())
        dsl = importlib.import_module("cutlass.cutlass_dsl.cutlass")

        def launch(_: Any, *__: Any, **options: Any) -> None:
            raise Launched(*(self._numbers(options.get(name)) for name in ("grid", "block", "cluster")))

        dsl.KernelLauncher.launch = launch
        hardware = importlib.import_module("cutlass.utils").HardwareInfo
        hardware.__init__ = lambda *_, **__: None
        hardware.get_device_multiprocessor_count = lambda *_: self.num_sms
        cutlass = importlib.import_module("cutlass")
        self.kinds = {
            getattr(self.torch, ours): getattr(cutlass, theirs)
            for ours, theirs in (
                ("bfloat16", "BFloat16"), ("float16", "Float16"), ("float32", "Float32"), ("int32", "Int32"),
                ("float8_e4m3fn", "Float8E4M3FN"),
            )
        }  # fmt: skip
        self.refused = importlib.import_module("cutlass._mlir.ir").MLIRError  # what does not compile
        self._compile = self.cute.compile
        self.interface.to_cute_tensor = self._static
        self.interface.fake_tensor = self._sized
        self.cute.compile = self.compile
        combine = self.interface._flash_attn_fwd_combine

        def combining(out_partial: Any, lse: Any, out: Any, *rest: Any, **options: Any) -> Any:
            sizes = tuple(out_partial.shape[:-1])
            batch = rest[1].shape[0] - 1 if rest[1] is not None else sizes[1]
            self.symbols = iter((*sizes, *((batch,) if rest[1] is not None else ()), batch + 1))
            return combine(out_partial, lse, out, *rest, **options)

        combining.compile_cache = combine.compile_cache  # type: ignore[attr-defined]
        self.interface._flash_attn_fwd_combine = combining
        self.cute.sym_int = lambda *_, **__: next(self.symbols)
        for function in (self.interface._flash_attn_fwd, combine):
            function.compile_cache = Forgetful()
        for name in ("_get_scheduler_metadata", "_compute_tile_cumsum", "_compute_blocks_to_batch"):
            if hasattr(self.interface, name):
                getattr(self.interface, name).compile_cache = Forgetful()

    def record(self, call: dict[str, Any]) -> dict[str, Any]:
        """The row of a call: its launches in order, or what upstream raised."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.num_sms = call["num_sms"]
        os.environ["FLASH_ATTENTION_NUM_SMS"] = str(self.num_sms)
        self.interface.utils._fa_clc_enabled = call["clc"]
        self.launches = []
        with FakeTensorMode():
            try:
                self.interface._flash_attn_fwd(**self._arguments(call))
            except (AssertionError, ValueError, NotImplementedError, RuntimeError, self.refused) as error:
                return {"call": call, "expect": {"error": str(error).partition("\n")[0], "launches": []}}
        return {"call": call, "expect": {"error": None, "launches": self.launches}}

    def _arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        torch = self.torch
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}[call["dtype"]]

        def tensor(*sizes: int, of: Any = dtype) -> Any:
            return torch.empty(sizes, dtype=of, device="cuda")

        batch, heads, heads_k = call["batch"], call["num_heads"], call["num_heads_k"]
        dims = (call["head_dim"], call["head_dim_v"])
        packed = call["entry"] == "varlen_fwd"
        rows = (call["total_q"],) if packed else (batch, call["seqlen_q"])
        if call["page_size"]:
            pages = -(-call["seqlen_k"] // call["page_size"])
            keys = (batch * pages, call["page_size"])
        elif packed:
            keys = (batch * call["seqlen_k"],)
        else:
            keys = (batch, call["seqlen_k"])
        mla = call["mla"]
        given: dict[str, Any] = {
            "q": tensor(*rows, heads, dims[0]), "k": tensor(*keys, heads_k, dims[0]),
            "v": tensor(*keys, heads_k, dims[1]), "causal": call["causal"],
            "window_size_left": call["window"][0], "window_size_right": call["window"][1],
            "num_splits": call["num_splits_arg"], "pack_gqa": call["pack_gqa"],
        }  # fmt: skip
        if mla:
            given["qv"] = tensor(*rows, heads, dims[1])
        if call.get("topk"):
            given["gather_kv_indices"] = tensor(*rows, call["topk"], of=torch.int32)
        if call.get("softcap"):
            given["softcap"] = call["softcap"]
        if call.get("mask_mod"):
            given["mask_mod"] = self._mask()
        if packed:
            cumulative = tensor(batch + 1, of=torch.int32)
            given |= {"cu_seqlens_q": cumulative, "max_seqlen_q": call["seqlen_q"]}
            given["max_seqlen_k"] = call["seqlen_k"]
            if not call["page_size"]:
                given["cu_seqlens_k"] = cumulative
        if call["page_size"]:
            given["page_table"] = tensor(batch, keys[0] // batch, of=torch.int32)
            given["seqused_k"] = tensor(batch, of=torch.int32)
        return given

    def _mask(self) -> Any:
        """A mask function as upstream's tests write them: causal, by the positions it is given."""

        @self.cute.jit
        def mask_mod(batch: Any, head: Any, row: Any, column: Any, *_: Any) -> Any:
            return column <= row

        return mask_mod

    def compile(self, function: Any, *args: Any, **options: Any) -> Any:
        """Traces up to the launch; what is given back is never called."""
        self.integers = [value for value in args if type(value) is int]
        try:
            self._compile(function, *args, **options)
        except Launched as launched:
            grid, block, cluster = launched.args
            kind = type(function)
            self.launches.append({
                "kernel": kind.__module__.replace(".", "") + kind.__name__,
                "scheduler": getattr(getattr(function, "TileScheduler", None), "__name__", None),
                "grid": grid, "block": block, "cluster": cluster,
            })  # fmt: skip
        return lambda *_, **__: None

    def _numbers(self, sizes: Any) -> list[int] | None:
        return None if sizes is None else [self._number(size) for size in sizes]

    def _number(self, value: Any) -> int:
        if isinstance(value, int):
            return value
        inner = getattr(value, "value", value)
        return inner if isinstance(inner, int) else evaluate(inner, self.integers)

    def _static(self, tensor: Any, assumed_align: int = 16, leading_dim: int = -1, **_: Any) -> Any:
        if tensor is None:
            return None
        kind = self.kinds[tensor.dtype]
        return self.cute.runtime.make_fake_tensor(
            kind, tuple(tensor.shape), tuple(tensor.stride()), assumed_align=assumed_align
        )

    def _sized(self, kind: Any, shape: Any, divisibility: int = 1, leading_dim: int = -1) -> Any:
        order = list(range(len(shape)))
        lead = order.pop(leading_dim)
        strides, step = [0] * len(shape), 1
        for axis in (lead, *reversed(order)):
            strides[axis], step = step, step * shape[axis]
        return self.cute.runtime.make_fake_tensor(kind, tuple(shape), tuple(strides), assumed_align=16)


class Forgetful(dict[Any, Any]):
    """A compile cache that has nothing: each call is traced anew."""

    def __contains__(self, key: object) -> bool:
        return False


_TWO = {
    "arith.muli": lambda a, b: a * b, "arith.addi": lambda a, b: a + b, "arith.subi": lambda a, b: a - b,
    "arith.minsi": min, "arith.maxsi": max, "arith.floordivsi": lambda a, b: a // b,
    "arith.divsi": lambda a, b: a // b, "arith.remsi": lambda a, b: a % b,
    "cute.tuple_mul": lambda a, b: a * b, "cute.tuple_add": lambda a, b: a + b,
    "cute.tuple_sub": lambda a, b: a - b, "cute.tuple_div": lambda a, b: a // b,
    "cute.tuple_mod": lambda a, b: a % b, "cute.ceil_div": lambda a, b: -(-a // b),
    "arith.ceildivsi": lambda a, b: -(-a // b), "cute.round_up": lambda a, b: -(-a // b) * b,
}  # fmt: skip
_SAME = (
    "cute.size",
    "cute.to_int_tuple",  # these four: of a shape, whose only traced size is its first
    "cute.get_shape",
    "cute.make_layout",
    "cute.make_shape",
    "cute.get_leaves",
    "cute.get_scalars",
    "arith.extsi",
    "arith.trunci",
    "arith.index_cast",
)


def evaluate(value: Any, integers: list[int]) -> int:
    """A traced integer worked out; ``integers`` are the ones that the host function was given, in order."""
    owner = getattr(value, "owner", None) or value.value.owner  # a tensor's value is within
    if not hasattr(owner, "operands"):  # an argument of the function
        ir = importlib.import_module("cutlass._mlir").ir
        numbers = [ir.BlockArgument(each).arg_number for each in owner.arguments if str(each.type) == "i32"]
        return integers[numbers.index(ir.BlockArgument(value).arg_number)]
    name, operands = owner.name, list(owner.operands)
    if name == "arith.constant":
        return int(str(owner.attributes["value"]).partition(" ")[0])
    if name in ("cute.make_int_tuple", "cute.make_tile") and not operands:
        return int(re.search(r'"\(*(\d+)', str(value.type))[1])
    if name in ("cute.get_layout", "cute.make_view"):  # behind what it points to
        return evaluate(operands[-1], integers)
    if name == "cute.make_int_tuple" or name in _SAME:
        return evaluate(operands[0], integers)
    if name == "arith.cmpi":
        left, right = (evaluate(each, integers) for each in operands)
        return int({0: left == right, 1: left != right, 2: left < right, 3: left <= right, 4: left > right,
                    5: left >= right}[int(owner.attributes["predicate"])])  # fmt: skip
    if name == "arith.select":
        which = evaluate(operands[0], integers)
        return evaluate(operands[1 if which else 2], integers)
    if name in _TWO:
        return int(_TWO[name](*(evaluate(each, integers) for each in operands)))
    raise TypeError(f"{name} is not worked out: {owner}")


def calls(arch: int, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Random calls, at the edges of tiles and splits more often than chance would have it."""
    rng = random.Random(seed * 1000 + arch)
    for _ in range(rows):
        heads, heads_k = rng.choice(_GEOMETRIES)
        dims, mla = rng.choice(_DIMS), False
        if arch // 10 in (10, 11) and rng.random() < 0.2:
            dims, mla = (64, 512), True
            heads, heads_k = rng.choice(((128, 1), (64, 1), (16, 1), (32, 1), (128, 2)))
        queries = rng.choice((1, 1, 1, 2, 4, 16, 17, 127, 128, 129, 257, 1000, 4096, rng.randrange(1, 3000)))
        keys = max(queries, rng.choice((64, 512, 513, 640, 4096, 8192, 65536, rng.randrange(1, 40000))))
        batch = rng.choice((1, 1, 2, 3, 8, 32, 64, 200))
        packed = rng.random() < 0.4
        page = rng.choice((None, None, None, 16, 64, 128, 256))
        window = rng.choice(((None, None), (None, None), (None, None), (128, 0), (1023, None), (0, 0)))
        yield {
            "arch": arch, "num_sms": rng.choice(SMS[arch]), "entry": "varlen_fwd" if packed else "fwd",
            "batch": batch, "seqlen_q": queries, "seqlen_k": -(-keys // page) * page if page else keys,
            "total_q": rng.randrange(queries, batch * queries + 1) if packed else None,
            "num_heads": heads, "num_heads_k": heads_k, "head_dim": dims[0], "head_dim_v": dims[1],
            "dtype": rng.choice(("bf16", "fp16")), "causal": rng.random() < 0.5,
            "window": [None, None] if mla else list(window), "page_size": page,
            "num_splits_arg": rng.choice((1, 1, 1, 0, 0, 0, 0, 2, 5, 16)),
            "pack_gqa": rng.choice((None, None, None, None, False, True)), "mla": mla,
            "clc": rng.random() < 0.2,
        }  # fmt: skip


def more_calls(arch: int, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same with what few callers ask for: FP8, keys gathered by an indexer, soft caps, mask functions."""
    rng = random.Random(f"more {arch} {seed}")
    kinds = ("fp8", "fp8", "topk", "topk", "topk", "softcap", "mask_mod")
    for call in calls(arch, rows, seed + 100):
        kind = rng.choice(kinds if arch // 10 == 10 else kinds[5:] if arch // 10 != 11 else kinds[2:])
        if kind == "fp8":
            yield call | {"dtype": "fp8", "clc": False}
        elif kind == "topk":
            heads = rng.choice((8, 16, 32, 64, 65, 96, 128, 128))
            keys = rng.choice((2048, 4096, 65536))
            yield call | {
                "num_heads": heads, "num_heads_k": 1, "head_dim": 64, "head_dim_v": 512, "mla": True,
                "window": [None, None], "page_size": None, "topk": rng.choice((128, 512, 2048, 100)),
                "seqlen_k": max(call["seqlen_q"], keys), "causal": rng.random() < 0.2,
                "num_splits_arg": rng.choice((1, 1, 0, 0, 2)), "dtype": rng.choice(("bf16", "bf16", "fp8")),
            }  # fmt: skip
        elif kind == "softcap":
            yield call | {"softcap": 30.0}
        else:
            yield call | {"mask_mod": True, "clc": False}


def wide_calls(arch: int, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Calls of head dim 256, for which vLLM's copy has a kernel of its own on Blackwell."""
    rng = random.Random(f"wide {arch} {seed}")
    for call in calls(arch, rows, seed + 200):
        heads, heads_k = rng.choice(_GEOMETRIES)
        yield call | {
            "head_dim": 256, "head_dim_v": 256, "mla": False, "num_heads": heads, "num_heads_k": heads_k,
            "window": [None, None], "page_size": rng.choice((None, None, None, 128)),
            "seqlen_k": -(-call["seqlen_k"] // 128) * 128, "batch": rng.choice((1, 1, 2, 7, 64)),
            "entry": "fwd", "total_q": None,
        } if rng.random() < 0.8 else call | {"head_dim": 256, "head_dim_v": 256, "mla": False}  # fmt: skip


def in_a_child(recorder: Recorder, call: dict[str, Any]) -> str:
    """The line of a call, "" where it cannot be had: some calls end the compiler, and the process with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            line = json.dumps(recorder.record(call), separators=(",", ":")) + "\n"
            os.write(writing, line.encode())
        except Exception as error:
            print(f"left out: {type(error).__name__} {str(error)[:300]} {call}", file=sys.stderr, flush=True)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        line = pipe.read().decode()
    os.waitpid(child, 0)
    return line


def main() -> int:
    """Writes a line a call; rows that the recorder itself could not work out are named and left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_flash_attn4", description=__doc__)
    parser.add_argument("--arch", type=int, required=True)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--more", action="store_true", help="what few callers ask for")
    parser.add_argument("--wide", action="store_true", help="head dim 256")
    parser.add_argument("--vllm", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recorder = Recorder(options.arch, options.vllm)
    left_out = 0
    with options.out.open("w", encoding="utf-8") as file:
        drawer = wide_calls if options.wide else more_calls if options.more else calls
        drawn = drawer(options.arch, options.rows, options.seed)
        for call in drawn:
            row = in_a_child(recorder, call)
            left_out += not row
            file.write(row)
            file.flush()
    print(f"{options.rows - left_out} rows, {left_out} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
