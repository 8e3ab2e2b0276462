"""SGLang's Triton backend by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.sglang_triton.dispatch import predict_call
from attnprof.dispatch.sglang_triton.rules import DEFAULT_VERSION, rules_for
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What SGLang ``version`` launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    rules_for(version)
    return predict_call(call, gpu)
