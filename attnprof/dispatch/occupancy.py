"""How many thread blocks of a kernel an SM holds at once, by each of its resources.

Source: cuda_occupancy.h of CUDA 13.0, for sm 7.0 to 12.1.
"""

from __future__ import annotations

from attnprof.gpus import resident_limits
from attnprof.model import Gpu

_RESERVED_SMEM = 1024  # bytes the driver takes per block from sm 8.0 on
_SMEM_STEP, _SMEM_STEP_BEFORE_8 = 128, 256  # bytes that shared memory is given out in
_REGISTERS_PER_QUARTER = 65536 // 4  # each quarter of an SM has its own
_REGISTERS_STEP = 256  # that a warp's registers are given out in
_WARP = 32


def blocks_by_threads(threads: int, gpu: Gpu) -> int:
    """Thread blocks of ``threads`` threads, in whole warps, that can be resident."""
    return resident_limits(gpu)[0] // (-(-threads // _WARP) * _WARP)


def blocks_by_smem(smem: int, gpu: Gpu) -> int:
    """Thread blocks of ``smem`` bytes that one SM's shared memory holds at its largest."""
    before_8 = gpu.sm_major < 8
    step = _SMEM_STEP_BEFORE_8 if before_8 else _SMEM_STEP
    taken = -(-(smem + (0 if before_8 else _RESERVED_SMEM)) // step) * step
    return gpu.smem_per_sm // taken if taken else resident_limits(gpu)[1]


def blocks_by_registers(registers: int, threads: int) -> int:
    """Thread blocks of ``threads`` threads that an SM's registers hold, a quarter of them for each warp.

    Source: cuda_occupancy.h of CUDA 13.0, ``cudaOccMaxBlocksPerSMRegsLimit``, for sm 7.0 to 12.1.
    """
    per_warp = -(-registers * _WARP // _REGISTERS_STEP) * _REGISTERS_STEP
    warps = _REGISTERS_PER_QUARTER // per_warp * 4
    return warps // -(-threads // _WARP)


def resident_blocks(registers: int, threads: int, smem: int, gpu: Gpu) -> int:
    """What cudaOccupancyMaxActiveBlocksPerMultiprocessor answers; ``smem`` in bytes, static and dynamic."""
    return min(
        resident_limits(gpu)[1],
        blocks_by_threads(threads, gpu),
        blocks_by_registers(registers, threads),
        blocks_by_smem(smem, gpu),
    )
