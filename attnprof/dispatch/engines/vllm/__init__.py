"""vLLM: its backend selector, the FlashAttention version it takes, and the call it makes."""
