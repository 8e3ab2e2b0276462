"""FlashAttention-4 (CuTe DSL)."""
