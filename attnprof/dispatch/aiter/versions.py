"""AITER by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.aiter.dispatch import predict_call
from attnprof.dispatch.aiter.rules import DEFAULT_VERSION, TAGGED, rules_for
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "KNOWN", "predict", "rules_for"]
KNOWN = (DEFAULT_VERSION, TAGGED)


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What AITER ``version`` launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    return predict_call(call, gpu, tagged=rules_for(version) == TAGGED)
