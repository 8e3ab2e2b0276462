"""FlashAttention-4 (CuTe DSL, ``flash_attn.cute``), and vLLM's copy of it.

Checked against ``_get_fwd_config`` of the flash-attn-4 4.0.0b36 wheel: tiles, stages and split counts.
Resting on reading alone: grids and threads, the tile schedulers, the combine kernel, 2CTA clusters, and all
of vLLM's copy. Not modelled: MLA (``qv``), block sparsity, CLC scheduling, kernels that plan a packed batch.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn4.rules import FwdConfig, fwd_config, num_splits_heuristic

__all__ = ["FwdConfig", "fwd_config", "num_splits_heuristic"]
