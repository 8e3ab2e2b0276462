"""Records what FlashInfer's XQA launches for decode steps, without a GPU.

    python benchmarks/record_xqa.py DATA RECORDER tests/data/golden/flashinfer_xqa_0.7.2.post1.csv.gz

DATA is ``flashinfer/data`` of the flashinfer-python wheel, RECORDER as in record_vllm_launches.py; nvcc 13.0
compiles csrc/xqa/mha.cu and mha_sm90.cu for one geometry, with the flags of flashinfer/jit/xqa.py, and each
GPU is a process of its own. The launchers of both are called; a row: which, the call, the grid and the block.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record_vllm_backends import write

COLUMNS = ("kernel", "sms", "batch", "num_heads_k", "room")
ANSWERS = ("name", "grid", "block")
GPUS = {"mha": (132, 78, 148, 170), "mha_sm90": (132, 114, 78)}
_FLAGS = (
    "-std=c++17", "-O1", "-w", "-arch=sm_90a", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr", "--cudart",
    "shared", "-DNDEBUG=1", "-DBEAM_WIDTH=1", "-DUSE_INPUT_KV=0", "-DUSE_CUSTOM_BARRIER=1", "-DINPUT_FP16=0",
    "-DDTYPE=__nv_bfloat16", "-DTOKENS_PER_PAGE=64", "-DHEAD_ELEMS=128", "-DHEAD_GRP_SIZE=4",
    "-DSLIDING_WINDOW=0", "-DLOW_PREC_OUTPUT=0", "-DSPEC_DEC=0", "-DMLA_WRAPPER=0", "-DUSE_SM90_MHA=1",
)  # fmt: skip
_SYMBOLS = {"mha": "_Z19launchMHAFlashInfer", "mha_sm90": "_Z27launchHopperF8MHAFlashInfer"}
_ASKED = ("cuGetErrorName", "cuGetErrorString")
_DRIVER = "".join(f'extern "C" int {name}(int, const char**) {{ return 0; }}\n' for name in _ASKED)
_PAGE = 64


def build(data: Path, work: Path) -> None:
    source = data / "csrc" / "xqa"
    for kernel, cache in (("mha", 0), ("mha_sm90", 2)):
        more = [str(source / "tensorMap.cpp")] if kernel == "mha_sm90" else []
        command = ["nvcc", *_FLAGS, f"-DCACHE_ELEM_ENUM={cache}", f"-I{source}", "-shared"]
        target = [str(source / f"{kernel}.cu"), *more, "-o", str(work / f"{kernel}.so")]
        subprocess.run([*command, *target], check=True)
    (work / "driver.cpp").write_text(_DRIVER)
    shared = ["g++", "-shared", "-fPIC", str(work / "driver.cpp"), "-o", str(work / "driver.so")]
    subprocess.run(shared, check=True)


def one_gpu(options: argparse.Namespace) -> None:
    recorder = ctypes.CDLL(str(options.recorder.resolve() / "cuda_recorder.so"))
    recorder.recorder_name.restype = ctypes.c_char_p
    path = options.work / f"{options.kernel}.so"
    listed = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True)
    symbol = next(line.split()[-1] for line in listed.stdout.splitlines() if _SYMBOLS[options.kernel] in line)
    launch = getattr(ctypes.CDLL(str(path)), symbol)
    number, real, at, stride = ctypes.c_uint32, ctypes.c_float, ctypes.c_void_p, ctypes.c_uint64
    launch.argtypes = [
        number, number, number, real, *(at,) * 7, number, at, number, real, *(at,) * 3, ctypes.c_bool,
        *(stride,) * 3, at,
    ]  # fmt: skip
    memory = ctypes.create_string_buffer(1 << 20)
    some = ctypes.addressof(memory) // 4096 * 4096 + 4096
    draw = random.Random(f"xqa {options.kernel} {options.sms}")
    for _ in range(options.count):
        batch, heads = draw.choice((1, 2, 3, 5, 8, 16, 33, 64, 200)), draw.choice((1, 2, 4, 8))
        room = _PAGE * draw.choice((1, 2, 4, 7, 16, 64, 100, 512, 2048))
        recorder.recorder_reset()
        launch(
            options.sms, heads, 0, 0.1, None, some, some, None, some, some, some, room, some, batch, 1.0,
            None, some, some, False, 128 * _PAGE * heads, 128 * heads, 128, None,
        )  # fmt: skip
        if recorder.recorder_count() != 1:
            raise SystemExit(f"{recorder.recorder_count()} launches")
        sizes = (ctypes.c_ulong * 7)()
        recorder.recorder_sizes(0, sizes)
        name = (
            "kernel_mha"
            if b"10kernel_mha" in recorder.recorder_name(0)
            else recorder.recorder_name(0).decode()
        )
        grid, block = ("/".join(map(str, part)) for part in (sizes[:3], sizes[3:6]))
        row: tuple[Any, ...] = (options.kernel, options.sms, batch, heads, room, name, grid, block)
        print("ROW " + ",".join(map(str, row)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100)
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
        for kernel, counts in GPUS.items():
            for sms in counts:
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
                print(
                    f"{kernel} {sms}: {len(found)} rows",
                    done.stderr[-300:] if not found else "",
                    file=sys.stderr,
                )
                rows += [dict(zip((*COLUMNS, *ANSWERS), row, strict=True)) for row in found]
    write(options.out, (*COLUMNS, *ANSWERS), rows)


if __name__ == "__main__":
    main()
