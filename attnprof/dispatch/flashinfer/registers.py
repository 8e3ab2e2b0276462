"""Registers of FlashInfer's fa2 kernels, and how many of their thread blocks an SM admits.

The kernels are compiled where they run, so these are of one compiler: ptxas of nvcc 13.0.88 on the headers of
the flashinfer-python 0.7.2.post1 wheel with the flags of its ``jit/core.py``, bf16, no position encoding,
window or soft cap. They have no static shared memory.
"""

from __future__ import annotations

from attnprof.dispatch import occupancy
from attnprof.dispatch.flashinfer import newer_registers
from attnprof.errors import UsageError
from attnprof.model import Gpu

Key = int | tuple[int, int, bool]

_DECODE = {  # (kernel, head dim, SM) -> for 1, 2, 3, 4, 6, 8 and 16 query heads per KV head
    ("batch_decode", 64, 80): (68, 56, 65, 56, 67, 64, 71),
    ("batch_decode", 64, 86): (68, 56, 61, 61, 64, 56, 71),
    ("batch_decode", 64, 89): (68, 56, 61, 61, 64, 56, 71),
    ("batch_decode", 64, 90): (70, 51, 56, 61, 56, 56, 71),
    ("batch_decode", 64, 100): (64, 56, 56, 56, 59, 63, 64),
    ("batch_decode", 64, 120): (70, 56, 61, 56, 64, 63, 71),
    ("batch_decode", 128, 80): (70, 56, 65, 56, 56, 62, 71),
    ("batch_decode", 128, 86): (70, 55, 61, 61, 56, 62, 71),
    ("batch_decode", 128, 89): (70, 55, 61, 61, 56, 62, 71),
    ("batch_decode", 128, 90): (70, 51, 56, 61, 61, 56, 71),
    ("batch_decode", 128, 100): (64, 56, 56, 58, 56, 63, 71),
    ("batch_decode", 128, 120): (64, 56, 61, 56, 56, 63, 64),
    ("batch_decode", 256, 80): (68, 56, 56, 58, 56, 62, 72),
    ("batch_decode", 256, 86): (68, 55, 56, 58, 56, 62, 72),
    ("batch_decode", 256, 89): (68, 55, 56, 58, 56, 62, 72),
    ("batch_decode", 256, 90): (66, 51, 48, 59, 56, 56, 64),
    ("batch_decode", 256, 100): (63, 56, 56, 58, 59, 63, 71),
    ("batch_decode", 256, 120): (70, 56, 56, 56, 62, 63, 71),
    ("single_decode", 64, 80): (90, 48, 51, 56, 63, 64, 64),
    ("single_decode", 64, 86): (88, 48, 48, 55, 63, 63, 64),
    ("single_decode", 64, 89): (88, 48, 48, 55, 63, 63, 64),
    ("single_decode", 64, 90): (90, 48, 48, 52, 62, 64, 64),
    ("single_decode", 64, 100): (108, 56, 56, 59, 61, 63, 64),
    ("single_decode", 64, 120): (105, 56, 56, 61, 63, 63, 69),
    ("single_decode", 128, 80): (90, 48, 51, 56, 61, 64, 64),
    ("single_decode", 128, 86): (88, 48, 48, 55, 61, 63, 64),
    ("single_decode", 128, 89): (88, 48, 48, 55, 61, 63, 64),
    ("single_decode", 128, 90): (89, 48, 48, 52, 62, 62, 64),
    ("single_decode", 128, 100): (108, 56, 56, 56, 62, 56, 66),
    ("single_decode", 128, 120): (103, 56, 56, 61, 56, 63, 71),
    ("single_decode", 256, 80): (90, 48, 48, 56, 64, 63, 64),
    ("single_decode", 256, 86): (88, 48, 48, 56, 64, 63, 64),
    ("single_decode", 256, 89): (88, 48, 48, 56, 64, 63, 64),
    ("single_decode", 256, 90): (89, 48, 48, 48, 61, 56, 62),
    ("single_decode", 256, 100): (108, 56, 56, 56, 62, 56, 64),
    ("single_decode", 256, 120): (102, 56, 56, 56, 56, 63, 64),
}
_SINGLE_PREFILL = {  # head dim -> (query tile, key steps, causal) -> by SM
    128: {
        (16, 1, False): {80: 128, 86: 128, 89: 128, 90: 126, 100: 127, 120: 125},
        (16, 1, True): {80: 130, 86: 129, 89: 129, 90: 126, 100: 128, 120: 126},
        (16, 2, False): {80: 130, 86: 130, 89: 130, 90: 168, 100: 140, 120: 128},
        (16, 2, True): {80: 130, 86: 130, 89: 130, 90: 176, 100: 168, 120: 167},
        (16, 4, False): {80: 188, 86: 203, 89: 203, 90: 184, 100: 182, 120: 168},
        (16, 4, True): {80: 186, 86: 203, 89: 203, 90: 205, 100: 184, 120: 168},
        (16, 8, False): {80: 255, 86: 255, 89: 255, 90: 255, 100: 185, 120: 184},
        (16, 8, True): {80: 255, 86: 255, 89: 255, 90: 255, 100: 255, 120: 255},
        (64, 1, False): {80: 124, 86: 124, 89: 124, 90: 124, 100: 150, 120: 151},
        (64, 1, True): {80: 127, 86: 127, 89: 127, 90: 128, 100: 126, 120: 124},
        (64, 2, False): {80: 128, 86: 128, 89: 128, 90: 128, 100: 163, 120: 163},
        (64, 2, True): {80: 128, 86: 128, 89: 128, 90: 161, 100: 160, 120: 159},
        (64, 4, False): {80: 164, 86: 162, 89: 162, 90: 161, 100: 218, 120: 201},
        (64, 4, True): {80: 161, 86: 161, 89: 161, 90: 161, 100: 172, 120: 168},
        (64, 8, False): {80: 255, 86: 255, 89: 255, 90: 255, 100: 255, 120: 254},
        (64, 8, True): {80: 255, 86: 255, 89: 255, 90: 255, 100: 255, 120: 254},
        (128, 1, False): {80: 239, 86: 239, 89: 239, 90: 240, 100: 250, 120: 248},
        (128, 1, True): {80: 238, 86: 238, 89: 238, 90: 245, 100: 252, 120: 246},
        (128, 2, False): {80: 240, 86: 240, 89: 240, 90: 242, 100: 255, 120: 255},
        (128, 2, True): {80: 246, 86: 246, 89: 246, 90: 244, 100: 255, 120: 255},
        (128, 4, False): {80: 255, 86: 255, 89: 255, 90: 255, 100: 255, 120: 255},
        (128, 4, True): {80: 255, 86: 255, 89: 255, 90: 255, 100: 255, 120: 255},
    },
}
_MERGE = {  # head dim -> by SM
    64: {80: 48, 86: 48, 89: 48, 90: 48, 100: 40, 120: 40},
    128: {80: 47, 86: 48, 89: 48, 90: 40, 100: 40, 120: 40},
    256: {80: 48, 86: 48, 89: 48, 90: 40, 100: 40, 120: 40},
    512: {80: 56, 86: 56, 89: 56, 90: 48, 100: 48, 120: 48},
}


_MERGE_OLDEST = {  # the same of 0.6.8.post1
    64: {80: 48, 86: 48, 89: 48, 90: 40, 100: 40, 120: 40},
    128: {80: 40, 86: 40, 89: 40, 90: 40, 100: 40, 120: 40},
    256: {80: 40, 86: 40, 89: 40, 90: 40, 100: 40, 120: 40},
    512: {80: 55, 86: 56, 89: 56, 90: 48, 100: 48, 120: 48},
}
# By build: "" is 0.7.2's. Of 0.6.8.post1 the merge kernel alone was compiled.
_MERGES = {"": _MERGE, "0.6.8": _MERGE_OLDEST, "0.7.4": newer_registers.MERGE}
BUILDS = ("", "0.7.4")


class UnknownBlocksError(UsageError):
    """A kernel whose registers nobody has read."""


def resident_blocks(
    kernel: str, head_dim: int, key: Key, threads: int, smem: int, gpu: Gpu, build: str = ""
) -> int:
    """What cudaOccupancyMaxActiveBlocksPerMultiprocessor answers for ``kernel``.

    key: query heads per KV head, or (query tile, key steps, causal).  Raises UnknownBlocksError.
    """
    return occupancy.resident_blocks(_registers(kernel, head_dim, key, gpu, build), threads, smem, gpu)


def _registers(kernel: str, head_dim: int, key: Key, gpu: Gpu, build: str) -> int:
    sm = gpu.sm_major * 10 + gpu.sm_minor
    found: int | None = None
    newer = build == "0.7.4"
    if kernel == "merge":
        found = _MERGES[build].get(head_dim, {}).get(sm)
    elif kernel == "single_prefill" and isinstance(key, tuple):
        other = newer_registers.SINGLE_PREFILL.get(head_dim, {}).get(key) if newer else None
        found = (other or _SINGLE_PREFILL.get(head_dim, {}).get(key, {})).get(sm)
    elif isinstance(key, int):
        of_kernel = (kernel, head_dim, sm)
        of_groups = (newer_registers.DECODE.get(of_kernel) if newer else None) or _DECODE.get(of_kernel)
        found = None if of_groups is None else of_groups[(1, 2, 3, 4, 6, 8, 16).index(key)]
    if found is None:
        raise UnknownBlocksError(
            f"how many thread blocks of flashinfer's {kernel.replace('_', ' ')} kernel an SM "
            f"{gpu.sm_major}.{gpu.sm_minor} admits at head dim {head_dim} is not known",
            hint=f"its registers were read for head dims {_known(kernel)}",
        )
    return found


def _known(kernel: str) -> str:
    dims = _MERGE if kernel == "merge" else _SINGLE_PREFILL
    found = sorted({dim for name, dim, _ in _DECODE if name == kernel} or dims)
    return ", ".join(str(dim) for dim in found)
