"""Calls that differ in batch and lengths alone: what these do not enter is gone through once."""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.flash_attn2.dispatch import Dispatch
from attnprof.dispatch.flash_attn2.rules import Rules
from attnprof.dispatch.heuristic import num_splits_heuristic
from attnprof.dispatch.library import Launched
from attnprof.dispatch.limits import LARGEST_GRID
from attnprof.model import AttentionCall, Gpu, Prediction


class CallsAlike:
    """Answers as a :class:`Dispatch` of its own per call does.

    The host code compares the lengths with one another, with 1 and with the window, and computes with them
    after that alone: calls for which all these come out alike share a Dispatch up to its launches.
    """

    def __init__(self, call: AttentionCall, gpu: Gpu, rules: Rules) -> None:
        self.call, self.gpu, self.rules = call, gpu, rules
        self.groups = call.num_heads // call.num_heads_k
        self.shared: dict[int, Dispatch | None] = {}  # None of what is refused, or launches nothing

    def __call__(self, batch: int, seqlen_q: int, seqlen_k: int) -> Prediction | Launched:
        call = self.call
        batch_heads = batch * call.num_heads
        # Within these every grid can be launched, and there is something to launch it for.
        if not (
            0 < batch_heads <= LARGEST_GRID[2]
            and 0 < seqlen_q * batch_heads <= LARGEST_GRID[0]
            and seqlen_k > 0
            and call.total_q is None
        ):
            return self.alone(batch, seqlen_q, seqlen_k).run()
        left, right = call.window
        compared = (
            (seqlen_q == 1)
            | (seqlen_q > seqlen_k) << 1
            | (self.groups > seqlen_k) << 2
            | (left >= seqlen_k) << 3
            | (right >= seqlen_k) << 4
        )
        try:
            shared = self.shared[compared]
        except KeyError:
            shared = self.alone(batch, seqlen_q, seqlen_k)
            self.shared[compared] = shared = None if shared.settle() else shared
        if shared is None:
            return self.alone(batch, seqlen_q, seqlen_k).run()
        shared.batch, shared.seqlen_k = batch, seqlen_k
        if not shared.folded:
            shared.seqlen_q = seqlen_q
        if shared.searched:
            shared.num_splits = num_splits_heuristic(*shared.search())
        return shared.num_splits or 1, shared.launches()

    def alone(self, batch: int, seqlen_q: int, seqlen_k: int) -> Dispatch:
        call = self.call
        if (call.batch, call.seqlen_q, call.seqlen_k) != (batch, seqlen_q, seqlen_k):
            call = replace(call, batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
        return Dispatch(call, self.gpu, self.rules)
