"""TokenSpeed's MLA decode by version: which are known, and the prediction for a call."""

from __future__ import annotations

from attnprof.dispatch.tokenspeed_mla.dispatch import predict_call
from attnprof.dispatch.tokenspeed_mla.rules import DEFAULT_VERSION, rules_for
from attnprof.dispatch.versions import same_in_all

__all__ = ["DEFAULT_VERSION", "predict", "rules_for"]

predict = same_in_all(rules_for, predict_call, DEFAULT_VERSION)
