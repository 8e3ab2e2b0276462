"""CUTLASS's MLA decode on Blackwell, as vLLM builds it: splits by batch and page table, a persistent grid.

Grids, blocks, shared memory and names agree with what the wheel of vllm 0.33.0 was recorded to launch.
"""
