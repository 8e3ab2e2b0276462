"""FlashMLA and the MLA kernels of CUTLASS.

All of FlashMLA's plan rests on reading; that it deals out every key block once is tested. Not modelled:
sparse decode, prefill, Blackwell, and the combine kernel's grid.
"""
