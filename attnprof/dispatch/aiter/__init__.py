"""AITER, Composable Kernel and AOTriton: attention on AMD GPUs."""
