"""AITER over a paged cache by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION, rules_for
from attnprof.dispatch.aiter_paged.dispatch import predict_call
from attnprof.dispatch.versions import same_in_all

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]

predict = same_in_all(rules_for, predict_call, DEFAULT_VERSION)
