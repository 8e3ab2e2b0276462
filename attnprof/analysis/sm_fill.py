"""How full the SMs are while an attention launch runs: thread blocks against what fits, wave by wave.

Resident at once are as many thread blocks per SM as threads, blocks and shared memory admit, but of
FlashAttention's main kernels no more than the library itself counts: 2, and 1 of FlashAttention-3.
Registers, which a launch does not name, may admit fewer: the 255 per thread seen in traces admit 2 blocks of
128 threads. Blocks are taken to spread over all SMs before any SM gets a second one, and to take equally
long.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.gpus import resident_limits
from attnprof.model import Gpu, KernelLaunch

if TYPE_CHECKING:
    from attnprof.check.check_run import CheckedCall

COUNTED_PER_SM = {"fwd": 2, "fwd_splitkv": 2, "fa3_fwd": 1, "fa3_fwd_early": 1, "fa4_fwd": 1}
_RESERVED_SMEM = 1024  # bytes the driver takes per block from sm 8.0 on
_ELEMENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class SmFill:
    """One launch on one GPU; ``family`` as in ``dispatch/families.py``.

    ``admitted_per_sm``: thread blocks that threads, blocks and shared memory admit on an SM, ``limited_by``
    the tightest of these.  ``per_sm``: the same, at most what the library counts of its main kernels.
    ``slots``: ``per_sm`` x SMs.  ``waves``: thread blocks / slots.  ``last_wave``: thread blocks in the last
    wave.  ``sms_busy``: SMs that get any thread block.  ``fill``: used part of the slots over whole waves, 0
    to 1.
    """

    kernel: str
    family: str
    thread_blocks: int
    admitted_per_sm: int
    limited_by: str
    per_sm: int
    slots: int
    waves: float
    whole_waves: int
    last_wave: int
    sms_busy: int
    num_sms: int
    fill: float
    role: str = "main"

    @property
    def is_main(self) -> bool:
        """Whether this is the kernel that attends, not one that prepares or combines."""
        return self.role == "main"


def sm_fill(launch: KernelLaunch, gpu: Gpu) -> SmFill:
    """How ``launch`` fills ``gpu``.

    Dynamic shared memory is the launch's, or where a trace does not hold it, what the tile in the kernel's
    name needs.
    """
    signature = parse_kernel_name(launch.kernel)
    admitted, limited_by = _admitted(launch, signature, gpu)
    per_sm = min(admitted, COUNTED_PER_SM.get(signature.family, admitted))
    thread_blocks, slots = prod(launch.grid), per_sm * gpu.num_sms
    whole = -(-thread_blocks // slots) if slots else 0
    return SmFill(
        kernel=signature.kernel,
        family=signature.family,
        thread_blocks=thread_blocks,
        admitted_per_sm=admitted,
        limited_by=limited_by,
        per_sm=per_sm,
        slots=slots,
        waves=thread_blocks / slots if slots else 0.0,
        whole_waves=whole,
        last_wave=thread_blocks - (whole - 1) * slots if whole else 0,
        sms_busy=min(gpu.num_sms, thread_blocks),
        num_sms=gpu.num_sms,
        fill=thread_blocks / (whole * slots) if whole else 0.0,
        role=signature.role,
    )


def _admitted(launch: KernelLaunch, signature: KernelSignature, gpu: Gpu) -> tuple[int, str]:
    """(thread blocks per SM, what limits them); 0 where a single one has no room."""
    threads, blocks = resident_limits(gpu)
    smem = dynamic_smem(launch, signature)
    limits = {"threads": threads // max(1, prod(launch.block)), "blocks": blocks}
    if smem:
        limits["shared memory"] = gpu.smem_per_sm // (smem + _RESERVED_SMEM)
    limited_by = min(limits, key=lambda name: limits[name])
    return limits[limited_by], limited_by


def dynamic_smem(launch: KernelLaunch, signature: KernelSignature) -> int:
    """Dynamic shared memory in bytes: the launch's own, else that of a FlashAttention-2 tile, else 0."""
    tile = (signature.block_m, signature.block_n, signature.head_dim)
    if launch.dynamic_smem or signature.family not in ("fwd", "fwd_splitkv") or None in tile:
        return launch.dynamic_smem
    block_m, block_n, head_dim = (size or 0 for size in tile)
    return (block_m + 2 * block_n) * head_dim * _ELEMENT_BYTES


def fill_rows(calls: Iterable[CheckedCall], gpu: Gpu) -> list[dict[str, Any]]:
    """A plain row per observed attention launch, for a DataFrame: where it ran, grid and SmFill."""
    known: dict[KernelLaunch, dict[str, Any]] = {}
    rows = []
    for call in calls:
        for launch in call.observed.launches if call.observed else ():
            if launch not in known:
                known[launch] = {"grid": "x".join(map(str, launch.grid)), **asdict(sm_fill(launch, gpu))}
            where = {"seq": call.seq, "step": call.step, "phase": call.phase, "layer": call.layer}
            rows.append(where | known[launch])
    return rows
