"""What CUDA and float32 make of what the libraries pass on: grids too large, dropout too small."""

from __future__ import annotations

from collections.abc import Iterable

from attnprof.dispatch.heuristic import float32
from attnprof.model import KernelLaunch

# CUDA C++ Programming Guide, technical specifications: x, y and z, the same on every GPU since sm 3.0
LARGEST_GRID = ((1 << 31) - 1, 65_535, 65_535)
GRID_REFUSAL = "CUDA error: invalid configuration argument"
DROPOUT_REFUSAL = (  # TORCH_CHECK(p_dropout < 1.f), which has no words of its own
    "Expected p_dropout < 1.f to be true, but got false.  (Could this error message be improved?  "
    "If so, please report an enhancement request to PyTorch.)"
)


def is_grid(grid: tuple[int, int, int]) -> bool:
    """Whether a GPU takes a launch of this grid."""
    (x, y, z), (most_x, most_y, most_z) = grid, LARGEST_GRID
    return 0 < x <= most_x and 0 < y <= most_y and 0 < z <= most_z


def impossible_grid(launches: Iterable[KernelLaunch]) -> str:
    """The first grid that no GPU takes, in words; "" where all can be launched."""
    grid = next((launch.grid for launch in launches if not is_grid(launch.grid)), None)
    return "" if grid is None else f"no GPU takes the grid {grid}: y and z end at 65,535"


def drops_out(dropout_p: float) -> bool:
    """Whether the kernel is told of dropout: it gets 1 - p_dropout, which a tiny p leaves at 1 in float32.

    Source: set_params_fprop and DROPOUT_SWITCH(params.p_dropout < 1.f, …).
    """
    return float32(1.0 - float32(dropout_p)) < 1.0


def is_tritons_block(block: tuple[int, int, int]) -> bool:
    """Whether a kernel of Triton's may have such a block: a power of two of warps, in one dimension."""
    warps, left = divmod(block[0], 32)
    return not left and block[1:] == (1, 1) and warps > 0 and warps & (warps - 1) == 0
