"""flashinfer by version: the rules of each, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.flashinfer.backends import TRTLLM_GEN
from attnprof.dispatch.flashinfer.dispatch import predict_call
from attnprof.dispatch.flashinfer.rules import DEFAULT_VERSION, rules_for
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]
_PLANNED = ("batch_paged", "batch_mla")  # whose headers of 0.6.8 were recorded


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flashinfer ``version`` plans and launches for ``call`` on ``gpu``; its reasons come with it."""
    del explain
    rules = rules_for(version)
    if rules.planned is not None and call.backend != TRTLLM_GEN and call.entry not in rules.planned:
        also = " and its plans of paged batches are" if rules.planned else " is"
        raise UsageError(
            f"of flashinfer {version.strip()} only backend {TRTLLM_GEN}{also} modelled",
            hint=f"give --version {DEFAULT_VERSION}, or --backend {TRTLLM_GEN}",
        )
    return predict_call(call, gpu, rules)
