"""flashinfer by version: the rules of each, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.flashinfer.backends import TRTLLM_GEN
from attnprof.dispatch.flashinfer.dispatch import predict_call
from attnprof.dispatch.flashinfer.rules import DEFAULT_VERSION, OLDER, rules_for
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flashinfer ``version`` plans and launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    rules_for(version)
    older = version.strip() == OLDER
    if older and call.backend != TRTLLM_GEN:
        raise UsageError(
            f"of flashinfer {OLDER} only backend {TRTLLM_GEN} is modelled",
            hint=f"give --version {DEFAULT_VERSION}, or --backend {TRTLLM_GEN}",
        )
    return predict_call(call, gpu, newer=not older)
