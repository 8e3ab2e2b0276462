"""FlashAttention-4 (CuTe DSL, ``flash_attn.cute``), and vLLM's copy of it.

Checked against the host code of the flash-attn-4 4.0.0b36 and vllm 0.33.0 wheels, run on no GPU: refusals,
tiles, stages, split counts, the kernel for MLA, what plans a packed batch, schedulers, grids, blocks and the
combine kernel, of SM 8.x to 12.x. Resting on reading alone: FP8, and that a name goes on behind
``_object_at_``. Not modelled: sparse MLA, block sparsity, score and mask functions, and the kernel for head
dim 256 of vLLM's copy on Blackwell.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn4.rules import FwdConfig, fwd_config, num_splits_heuristic

__all__ = ["FwdConfig", "fwd_config", "num_splits_heuristic"]
