"""Evidence from a real GPU: what ran against what should have run, by one command.

python -m benchmarks.gpu_evidence --out DIR [--minutes 8]
"""
