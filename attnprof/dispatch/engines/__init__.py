"""Engines, which pick the attention library: vLLM and SGLang, from a layer and a step to their call."""
