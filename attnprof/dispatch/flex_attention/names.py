"""FlexAttention's kernels: Triton templates that Inductor names after what they fuse.

Source: torch/_inductor/kernel/flex; only ``triton_tem`` is a template, ``triton_poi`` and ``triton_red`` name
the operators they stand beside.
"""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

LIBRARY = "flexattention"
FAMILIES: tuple[Family, ...] = (
    row(LIBRARY, "flex_bwd", r"triton_tem_fused_\w*flex_(?:attention|decoding)\w*_backward", "backward"),
    row(LIBRARY, "flex_fwd", r"triton_tem_fused_\w*flex_(?:attention|decoding)\w*"),
)
