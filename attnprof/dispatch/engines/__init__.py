"""Engines, which pick the attention library: vLLM and SGLang, from a layer and a step to their call."""

from __future__ import annotations

ENGINES: dict[str, str] = {  # what people call it -> its module
    "vllm": "attnprof.dispatch.engines.vllm.engine",
    "sglang": "attnprof.dispatch.engines.sglang.engine",
}
