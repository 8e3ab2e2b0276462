"""CUTLASS's MLA decode by version of vLLM: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.cutlass_mla.dispatch import predict_call
from attnprof.dispatch.cutlass_mla.rules import DEFAULT_VERSION, rules_for
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What vLLM ``version`` launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    rules_for(version)
    return predict_call(call, gpu)
