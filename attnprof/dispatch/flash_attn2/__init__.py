"""flash_attn 2, the PyPI package."""
