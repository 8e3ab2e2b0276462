"""flash_attn_4 by version: the rules of each, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.flash_attn4.dispatch import predict_call
from attnprof.dispatch.flash_attn4.rules import DEFAULT_VERSION, rules_for
from attnprof.model import AttentionCall, Gpu, Prediction

CLC = "clc"  # as a call's backend: FA_CLC=1 is set
__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flash_attn_4 ``version`` launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    return predict_call(call, gpu, version, rules_for(version), clc=call.backend == CLC)
