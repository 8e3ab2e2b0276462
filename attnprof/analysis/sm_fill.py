"""How full the SMs are while an attention launch runs: thread blocks against what fits, wave by wave.

Resident at once are as many thread blocks per SM as threads, blocks, shared memory and registers admit.
Registers are known of the builds in ``kernel_resources.py``. Of other kernels it is said to be at most that,
and of FlashAttention's main kernels at most what the library itself counts: 2, and 1 of FlashAttention-3.
Blocks are taken to spread over all SMs before any SM gets a second one, and to take equally long.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from attnprof.analysis.kernel_resources import Resources, resources_of
from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.dispatch.occupancy import blocks_by_registers, blocks_by_smem, blocks_by_threads
from attnprof.gpus import resident_limits
from attnprof.model import Gpu, KernelLaunch

if TYPE_CHECKING:
    from attnprof.check.check_run import CheckedCall

COUNTED_PER_SM = {"fwd": 2, "fwd_splitkv": 2, "fa3_fwd": 1, "fa3_fwd_early": 1, "fa4_fwd": 1, "fa4_mla": 1}
_ELEMENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class SmFill:
    """One launch on one GPU; ``family`` as in ``dispatch/families.py``.

    ``admitted_per_sm``: thread blocks that threads, blocks, shared memory and known registers admit on an SM,
    ``limited_by`` the tightest of these.  ``per_sm``: the same, and unless it is ``exact`` no more than the
    library counts of its main kernels.  ``exact``: registers and shared memory are those of ``source``, the
    build that was read; else ``per_sm`` is at most that, and ``waves`` at least.
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
    exact: bool = False
    registers: int | None = None
    source: str = ""

    @property
    def is_main(self) -> bool:
        """Whether this is the kernel that attends, not one that prepares or combines."""
        return self.role == "main"


def sm_fill(launch: KernelLaunch, gpu: Gpu, library: str = "", version: str = "") -> SmFill:
    """How ``launch`` fills ``gpu``.

    ``library`` and ``version``: whose kernel it is, where that is known.  Dynamic shared memory is the
    launch's, or where a trace does not hold it, what the tile in the kernel's name needs.
    """
    signature = parse_kernel_name(launch.kernel)
    stated = resources_of(launch.kernel, gpu, library, version) if library else None
    limits = _limits(launch, signature, gpu, stated)
    limited_by = min(limits, key=lambda name: limits[name])
    admitted = limits[limited_by]
    # Where shared memory is not known, one block fits all the same, or it would not have been launched.
    exact = stated is not None and (_smem_known(launch, signature) or admitted == 1)
    per_sm = admitted if exact else min(admitted, COUNTED_PER_SM.get(signature.family, admitted))
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
        exact=exact,
        registers=stated.registers if stated else None,
        source=stated.source if stated else "",
    )


def _limits(
    launch: KernelLaunch, signature: KernelSignature, gpu: Gpu, stated: Resources | None
) -> dict[str, int]:
    """Thread blocks per SM that each resource admits; 0 where a single one has no room."""
    _, blocks = resident_limits(gpu)
    size = max(1, prod(launch.block))
    limits = {"threads": blocks_by_threads(size, gpu), "blocks": blocks}
    smem = dynamic_smem(launch, signature) + (stated.static_smem if stated else 0)
    if smem or stated:
        limits["shared memory"] = blocks_by_smem(smem, gpu)
    if stated:
        limits["registers"] = blocks_by_registers(stated.registers, size)
    return limits


def _smem_known(launch: KernelLaunch, signature: KernelSignature) -> bool:
    """Whether the launch's dynamic shared memory is known, if only to be none."""
    return dynamic_smem(launch, signature) > 0 or signature.family == "fwd_splitkv_combine"


def dynamic_smem(launch: KernelLaunch, signature: KernelSignature) -> int:
    """Dynamic shared memory in bytes: the launch's own, else that of a FlashAttention-2 tile, else 0."""
    tile = (signature.block_m, signature.block_n, signature.head_dim)
    if launch.dynamic_smem or signature.family not in ("fwd", "fwd_splitkv") or None in tile:
        return launch.dynamic_smem
    block_m, block_n, head_dim = (size or 0 for size in tile)
    return (block_m + 2 * block_n) * head_dim * _ELEMENT_BYTES


def fill_rows(
    calls: Iterable[CheckedCall], gpu: Gpu, library: str = "", version: str = ""
) -> list[dict[str, Any]]:
    """A plain row per observed attention launch, for a DataFrame: where it ran, grid and SmFill."""
    known: dict[KernelLaunch, dict[str, Any]] = {}
    rows = []
    for call in calls:
        for launch in call.observed.launches if call.observed else ():
            if launch not in known:
                known[launch] = {
                    "grid": "x".join(map(str, launch.grid)),
                    **asdict(sm_fill(launch, gpu, library, version)),
                }
            where = {"seq": call.seq, "step": call.step, "phase": call.phase, "layer": call.layer}
            rows.append(where | known[launch])
    return rows
