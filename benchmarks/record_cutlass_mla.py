"""Records what ``sm100_cutlass_mla_decode`` of a vllm wheel launches, without a GPU.

    python benchmarks/record_cutlass_mla.py EXTENSION RECORDER tests/data/golden/cutlass_mla_0.33.0.csv.gz

EXTENSION is ``vllm/_C_stable_libtorch.abi3.so`` of the wheel; RECORDER as in record_vllm_launches.py. Each
GPU is a process of its own. Calls are those of vLLM's backend CUTLASS_MLA: pages of 128, a page table as wide
as the longest context, and no split count. A row: the call, the main kernel's grid and block as x/y/z, its
element and shared memory, and the reduction's grid and block, "" where there is none.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from record_vllm_backends import write

SMS = (148, 152, 160, 132, 20)  # B200, GB200, B300, and fewer, where the limits bite
COLUMNS = ("sms", "batch", "num_heads", "pages", "dtype")
ANSWERS = ("grid", "block", "element", "smem", "reduction_grid", "reduction_block")
BATCHES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 47, 48, 49, 64, 74, 75, 96, 97, 128, 200, 512)
PAGES = (1, 2, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1024)


def calls(sms: int, count: int) -> list[dict[str, Any]]:
    draw = random.Random(f"cutlass {sms}")
    return [
        {
            "sms": sms, "batch": draw.choice(BATCHES), "num_heads": draw.choice((16, 64, 128, 128)),
            "pages": draw.choice(PAGES), "dtype": draw.choice(("bf16", "bf16", "fp16", "fp8")),
        }
        for _ in range(count)
    ]  # fmt: skip


def one_gpu(options: argparse.Namespace) -> None:
    import torch

    torch.cuda.init()
    torch.ops.load_library(str(options.extension))
    library = ctypes.CDLL(str(options.recorder.resolve() / "cuda_recorder.so"))
    library.recorder_name.restype = ctypes.c_char_p
    demangle = getattr(ctypes.CDLL("libstdc++.so.6"), "__cxa_demangle")
    demangle.restype = ctypes.c_char_p
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
    for call in calls(options.sms, options.count):
        batch, heads, pages, dtype = call["batch"], call["num_heads"], call["pages"], dtypes[call["dtype"]]

        def empty(*size: int, kind: Any = dtype) -> Any:
            return torch.empty(size, dtype=kind, device="cuda")

        out = empty(batch, 128, 512, kind=torch.bfloat16 if call["dtype"] == "fp8" else dtype)
        lengths, table = empty(batch, kind=torch.int32), empty(batch, pages, kind=torch.int32)
        library.recorder_reset()
        torch.ops._C.sm100_cutlass_mla_decode(
            out, torch.empty(0), empty(batch, heads, 512), empty(batch, heads, 64), empty(4, 128, 576),
            lengths, table, empty(1 << 27, kind=torch.uint8), 0.1, -1,
        )  # fmt: skip
        found = []
        for number in range(library.recorder_count()):
            sizes = (ctypes.c_ulong * 7)()
            library.recorder_sizes(number, sizes)
            kernel = demangle(library.recorder_name(number), None, None, None).decode()
            if "Sm100FmhaMla" in kernel:
                found.append(
                    (kernel, "/".join(map(str, sizes[:3])), "/".join(map(str, sizes[3:6])), sizes[6])
                )
        kernel, grid, block, smem = found[0]
        element = re.findall(r"cutlass::(\w+_t), float", kernel)[0]
        reduction = found[1][1:3] if len(found) > 1 else ("", "")
        row = (*call.values(), grid, block, element, smem, *reduction)
        print("ROW " + ",".join(map(str, row)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("extension", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sms", type=int)
    options = parser.parse_args()
    if options.sms:
        one_gpu(options)
        return
    recorder, rows = options.recorder.resolve(), []
    for sms in SMS:
        environment = os.environ | {
            "LD_PRELOAD": str(recorder / "cuda_recorder.so"), "LD_LIBRARY_PATH": str(recorder / "driver"),
            "RECORDED_GPU": f"10,0,{sms},233472,232448",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--sms", str(sms)],
            env=environment,
            capture_output=True,
            text=True,
        )
        found = [line[4:].split(",") for line in done.stdout.splitlines() if line.startswith("ROW ")]
        print(f"{sms} SMs: {len(found)} rows", done.stderr[-300:] if not found else "", file=sys.stderr)
        rows += [dict(zip((*COLUMNS, *ANSWERS), row, strict=True)) for row in found]
    write(options.out, (*COLUMNS, *ANSWERS), rows)


if __name__ == "__main__":
    main()
