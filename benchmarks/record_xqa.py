"""Records what FlashInfer's XQA launches for decode steps and drafts, without a GPU.

    python benchmarks/record_xqa.py DATA RECORDER tests/data/golden/flashinfer_xqa_0.7.2.post1.csv.gz

DATA is ``flashinfer/data`` of the flashinfer-python wheel, RECORDER as in record_vllm_launches.py; nvcc 13.0
compiles csrc/xqa's kernels to PTX for each build below, with the flags of flashinfer/jit/xqa.py, and each GPU
is a process of its own. The launchers are called; a row: the build, the call, the grid and the block.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record_vllm_backends import write

COLUMNS = ("kernel", "sms", "batch", "num_heads_k", "room", "seqlen_q", "group", "head_dim")
ANSWERS = ("name", "grid", "block")
_FLAGS = (
    "-std=c++17", "-O1", "-w", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr", "--cudart", "shared",
    "-DNDEBUG=1", "-DBEAM_WIDTH=1", "-DUSE_INPUT_KV=0", "-DUSE_CUSTOM_BARRIER=1", "-DTOKENS_PER_PAGE=64",
    "-DSLIDING_WINDOW=0",
)  # fmt: skip
_MHA = ("-DINPUT_FP16=0", "-DDTYPE=__nv_bfloat16", "-DLOW_PREC_OUTPUT=0", "-DMLA_WRAPPER=0")
_ASKED = ("cuGetErrorName", "cuGetErrorString")
_DRIVER = "".join(f'extern "C" int {name}(int, const char**) {{ return 0; }}\n' for name in _ASKED)
_SYMBOL = 'extern "C" int cudaMemcpyFromSymbol(unsigned* to, const void*, ...) { *to = 1024; return 0; }\n'
_PAGE = 64
_BATCHES, _HEADS = (1, 2, 3, 5, 8, 16, 33, 64, 200), (1, 2, 4, 8)
_ROOMS = (1, 2, 4, 7, 16, 64, 100, 512, 2048)


@dataclass(frozen=True)
class Build:
    """A compiled launcher. ``cache``: bf16 0, E4M3 2, NVFP4 3. ``queries``: of a draft, () of none."""

    source: str
    arch: str
    sms: tuple[int, ...]
    cache: int
    group: int = 4
    head_dim: int = 128
    queries: tuple[int, ...] = ()
    count: int = 40

    @property
    def symbol(self) -> str:
        of = {"mha": "MHAFlashInfer", "mha_sm90": "HopperF8MHAFlashInfer", "mla_sm120": "MLAFlashInfer"}
        return f"{len('launch' + of[self.source])}launch{of[self.source]}"

    def flags(self) -> tuple[str, ...]:
        sized = (f"-DHEAD_ELEMS={self.head_dim}", f"-DHEAD_GRP_SIZE={self.group}")
        draft = ("-DSPEC_DEC=1", "-DIS_SPEC_DEC_TREE=0") if self.queries else ("-DSPEC_DEC=0",)
        if self.source == "mla_sm120":
            of = ("-DMLA_WRAPPER=1", "-DLOW_PREC_OUTPUT=0", *(("-DMLA_BF16=1",) if self.cache == 0 else ()))
        else:
            of = (*_MHA, *draft, f"-DUSE_SM90_MHA={int('90' in self.arch)}")
        target = f"-gencode=arch=compute_{self.arch},code=compute_{self.arch}"
        return (*_FLAGS, *sized, *of, f"-DCACHE_ELEM_ENUM={self.cache}", target)


_HOPPER, _LARGE = (132, 114, 78), (188, 170, 84)
BUILDS = {
    "mha": Build("mha", "90a", (132, 78, 148, 170), 0, count=100),
    "mha_sm90": Build("mha_sm90", "90a", _HOPPER, 2, count=100),
    "mha_64": Build("mha", "100a", (148, 160), 0, 8, 64),
    "mha_512": Build("mha", "90a", (132, 78), 2, 16, 512),
    "mha_nvfp4": Build("mha", "120a", _LARGE, 3),
    "mha_nvfp4_drafts": Build("mha", "120a", _LARGE, 3, 8, 128, (2, 4, 5, 8)),
    "mha_drafts_1": Build("mha", "90a", (132, 78), 0, 1, 64, (2, 3, 32, 33, 64)),
    "mha_drafts_5": Build("mha", "120a", _LARGE, 2, 5, 128, (2, 4, 6, 7, 13)),
    "mha_drafts_8": Build("mha", "100a", (148, 160), 0, 8, 256, (2, 4, 5, 8, 9, 17)),
    "mha_sm90_drafts_7": Build("mha_sm90", "90a", _HOPPER, 2, 7, 128, (5, 8, 9, 10, 19)),
    "mha_sm90_drafts_8": Build("mha_sm90", "90a", _HOPPER, 2, 8, 64, (5, 8, 9, 16, 17)),
    "mha_sm90_drafts_16": Build("mha_sm90", "90a", _HOPPER, 2, 16, 256, (3, 4, 5, 8, 9)),
    "mla": Build("mla_sm120", "120a", _LARGE, 2, 128, 576),
    "mla_bf16": Build("mla_sm120", "120a", _LARGE, 0, 128, 576),
}


def build(data: Path, work: Path) -> None:
    source = data / "csrc" / "xqa"
    for name, each in BUILDS.items():
        more = [] if each.source == "mha" else [str(source / "tensorMap.cpp")]
        command = ["nvcc", *each.flags(), f"-I{source}", "-shared", str(source / f"{each.source}.cu"), *more]
        subprocess.run([*command, "-o", str(work / f"{name}.so")], check=True)
    (work / "driver.cpp").write_text(_DRIVER + _SYMBOL)
    shared = ["g++", "-shared", "-fPIC", str(work / "driver.cpp"), "-o", str(work / "driver.so")]
    subprocess.run(shared, check=True)


def _arguments(of: Build, sms: int, call: tuple[int, int, int, int], at: int) -> list[Any]:
    """The launcher's arguments with their C types."""
    batch, heads, room, queries = call
    number, real, some, none = ctypes.c_uint32, ctypes.c_float, ctypes.c_void_p(at), ctypes.c_void_p()
    dim = of.head_dim // 2 if of.cache == 3 else of.head_dim
    strides = [ctypes.c_uint64(one * dim) for one in (_PAGE * heads, heads, 1)]
    if of.source == "mla_sm120":
        return [
            number(sms), number(1), real(0.1), none, *(some,) * 5, number(room), some, number(batch),
            real(1.0), none, some, some, ctypes.c_bool(False), *strides, none,
        ]  # fmt: skip
    drafts = [number(queries), none, some] if of.queries else []
    scales = [some, some] if of.cache == 3 else []
    scale_strides = [ctypes.c_uint64(of.head_dim // 16 * one) for one in (_PAGE * heads, heads, 1)]
    return [
        number(sms), number(heads), number(0), real(0.1), none, some, some, none, some, some, *scales, some,
        number(room), some, number(batch), real(1.0), none, *drafts, some, some, ctypes.c_bool(False),
        *strides, *(scale_strides if scales else []), none,
    ]  # fmt: skip


def one_gpu(options: argparse.Namespace) -> None:
    recorder = ctypes.CDLL(str(options.recorder.resolve() / "cuda_recorder.so"))
    recorder.recorder_name.restype = ctypes.c_char_p
    of, path = BUILDS[options.kernel], options.work / f"{options.kernel}.so"
    listed = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True)
    symbol = next(line.split()[-1] for line in listed.stdout.splitlines() if f"_Z{of.symbol}" in line)
    launch = getattr(ctypes.CDLL(str(path)), symbol)
    memory = ctypes.create_string_buffer(1 << 20)
    some = ctypes.addressof(memory) // 4096 * 4096 + 4096
    draw = random.Random(f"xqa {options.kernel} {options.sms}")
    for _ in range(of.count):
        batch = draw.choice(_BATCHES)
        heads = draw.choice(_HEADS if of.source != "mla_sm120" else (1,))
        room = _PAGE * draw.choice(_ROOMS)
        queries = draw.choice(of.queries) if of.queries else 1
        recorder.recorder_reset()
        launch(*_arguments(of, options.sms, (batch, heads, room, queries), some))
        if recorder.recorder_count() != 1:
            raise SystemExit(f"{recorder.recorder_count()} launches")
        sizes = (ctypes.c_ulong * 7)()
        recorder.recorder_sizes(0, sizes)
        mangled = recorder.recorder_name(0)
        name = "kernel_mha" if b"10kernel_mha" in mangled else mangled.decode()
        grid, block = ("/".join(map(str, part)) for part in (sizes[:3], sizes[3:6]))
        call = (batch, heads, room, queries, of.group, of.head_dim)
        print("ROW " + ",".join(map(str, (options.kernel, options.sms, *call, name, grid, block))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kernel")
    parser.add_argument("--sms", type=int)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.kernel:
        one_gpu(options)
        return
    rows, recorder = [], options.recorder.resolve()
    with tempfile.TemporaryDirectory() as folder:
        build(options.data, Path(folder))
        for kernel, sms in ((name, sms) for name, each in BUILDS.items() for sms in each.sms):
            environment = os.environ | {
                "LD_PRELOAD": f"{recorder / 'cuda_recorder.so'}:{folder}/driver.so",
                "LD_LIBRARY_PATH": f"{recorder / 'driver'}:/usr/local/cuda/lib64",
                "RECORDED_GPU": f"9,0,{sms},233472,232448",
            }
            asked = ["--kernel", kernel, "--sms", str(sms), "--work", folder]
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], *asked],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            found = [line[4:].split(",") for line in done.stdout.splitlines() if line.startswith("ROW ")]
            said = done.stderr[-300:] if done.returncode else ""
            print(f"{kernel} {sms}: {len(found)} rows", said, file=sys.stderr)
            rows += [dict(zip((*COLUMNS, *ANSWERS), row, strict=True)) for row in found]
    write(options.out, (*COLUMNS, *ANSWERS), rows)


if __name__ == "__main__":
    main()
