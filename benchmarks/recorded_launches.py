"""What the scripts that record an extension's launches share: the preloaded runtime, and a process per GPU.

The runtime is cuda_recorder.so, in a folder with driver/libcuda.so.1, both built from cuda_recorder.cpp.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Facts = tuple[int, int, int, int, int]  # major, minor, SMs, shared memory per SM and per block


class RecordingRuntime:
    """The preloaded runtime, and torch on it. Kernels of torch that copy or fill are left out."""

    def __init__(self, recorder: Path) -> None:
        import torch

        self.torch = torch
        torch.cuda.init()
        self.library = ctypes.CDLL(str(recorder.resolve() / "cuda_recorder.so"))
        self.library.recorder_name.restype = ctypes.c_char_p
        self.demangle = getattr(ctypes.CDLL("libstdc++.so.6"), "__cxa_demangle")
        self.demangle.restype = ctypes.c_char_p

    def launches(self) -> list[dict[str, Any]]:
        """What was launched since ``recorder_reset``."""
        found = []
        for number in range(self.library.recorder_count()):
            sizes = (ctypes.c_ulong * 7)()
            self.library.recorder_sizes(number, sizes)
            kernel = self.demangle(self.library.recorder_name(number), None, None, None).decode()
            if "at::native" not in kernel:
                given = list(sizes)
                found.append(
                    {"kernel": kernel, "grid": given[:3], "block": given[3:6], "dynamic_smem": given[6]}
                )
        return found


def device(name: str, facts: Facts) -> dict[str, Any]:
    """A GPU as rows state it."""
    return {"name": name, "sm_major": facts[0], "sm_minor": facts[1], "num_sms": facts[2]}


def write_row(row: Mapping[str, Any]) -> None:
    """A row of a GPU's process, for the one that started it."""
    print("ROW " + json.dumps(row), flush=True)


def record_gpus(script: str, gpus: Mapping[str, Facts], recorder: Path, out: Path) -> None:
    """Writes each GPU's rows, for which ``script`` runs again with ``--gpu`` and the runtime preloaded."""
    rows, folder = [], recorder.resolve()
    for gpu, facts in gpus.items():
        environment = os.environ | {
            "LD_PRELOAD": str(folder / "cuda_recorder.so"), "LD_LIBRARY_PATH": str(folder / "driver"),
            "RECORDED_GPU": ",".join(map(str, facts)),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, script, *sys.argv[1:], "--gpu", gpu],
            env=environment,
            capture_output=True,
            text=True,
        )
        found = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
        print(f"{gpu}: {len(found)} rows", done.stderr[-300:] if not found else "", file=sys.stderr)
        rows += found
    out.write_bytes(gzip.compress("".join(row + "\n" for row in rows).encode(), 9, mtime=0))
