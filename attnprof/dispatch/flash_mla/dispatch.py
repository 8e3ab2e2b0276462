"""From a call to what FlashMLA launches: dense or sparse, decode or prefill."""

from __future__ import annotations

from attnprof.dispatch.flash_mla.dense import decode, prefill
from attnprof.dispatch.flash_mla.rules import Build
from attnprof.dispatch.flash_mla.sparse import sparse_decode, sparse_prefill
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction, Reason


def predict_call(call: AttentionCall, gpu: Gpu, build: Build) -> Prediction:
    """The launches, the metadata that all layers of a step share among them.

    ``index_topk`` of the call makes it sparse. Raises UsageError for entries and elements it does not have.
    """
    if call.entry not in ("fwd_kvcache", "varlen_fwd"):
        raise UsageError(
            f"{call.entry} of flash_mla is not modelled: known are decode and packed prefill",
            hint="give --entry fwd_kvcache or varlen_fwd",
        )
    if call.seqlen_q == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if call.entry == "fwd_kvcache":
        return sparse_decode(call, gpu, build) if call.index_topk else decode(call, gpu, build)
    return sparse_prefill(call, gpu, build) if call.index_topk else prefill(call, gpu)
