"""vLLM's fork of FlashAttention."""
