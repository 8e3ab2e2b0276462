"""The prompt of a program, as its first steps tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any


def first_prompt(
    steps: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The batch and prompt_tokens of the language model's first prefill, all of its chunks; and its
    prompt_lengths where the batch is packed."""
    decoder = next((n for n, model in enumerate(models) if model.get("role") == "decoder"), None)
    own = [step for step in steps if decoder is None or step.get("model", decoder) == decoder]
    chunks = list(takewhile(lambda step: step.get("phase") == "prefill", own)) or own[:1]
    last = chunks[0] if chunks else {}
    for chunk in chunks[1:]:
        if chunk.get("seqlen_k") != (last.get("seqlen_k") or 0) + (chunk.get("seqlen_q") or 0):
            break
        last = chunk
    lengths = last.get("seqlens_q")
    packed = {"prompt_lengths": lengths} if lengths and len(set(lengths)) > 1 else {}
    return {"batch": last.get("batch"), "prompt_tokens": last.get("seqlen_k"), **packed}
