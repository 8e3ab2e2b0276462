"""FlashMLA by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.flash_mla.dispatch import predict_call
from attnprof.dispatch.flash_mla.rules import DEFAULT_VERSION, rules_for
from attnprof.dispatch.flash_mla.rules import KNOWN as BUILDS
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "KNOWN", "predict", "rules_for"]
KNOWN = tuple(BUILDS)


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What the build ``version`` launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    return predict_call(call, gpu, rules_for(version))
