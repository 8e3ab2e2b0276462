"""FlashMLA and the MLA kernels of CUTLASS."""
