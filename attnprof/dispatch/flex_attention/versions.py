"""FlexAttention by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.flex_attention.dispatch import predict_call
from attnprof.dispatch.flex_attention.paged import TORCH, predict_paged
from attnprof.dispatch.flex_attention.rules import DEFAULT_VERSION, rules_for
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What torch ``version`` launches; its reasons come with it. Raises UsageError for others.

    Steps of vLLM's (batch_paged) are known of the torch that vLLM 0.33 requires too.
    """
    del explain
    if call.entry != "batch_paged":
        rules_for(version)
        return predict_call(call, gpu)
    if version.strip().partition("+")[0] != TORCH:
        rules_for(version)
    return predict_paged(call, gpu)
