"""PyTorch's copy of FlashAttention-2, behind scaled_dot_product_attention."""
