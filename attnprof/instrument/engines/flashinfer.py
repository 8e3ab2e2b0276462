"""Records FlashInfer's batch wrappers: a run is described by the plan that was made for it.

``plan`` is given each request's lengths, on the host by vLLM and SGLang; ``run`` only tensors. A wrapper
under a CUDA graph plans for every step, and runs in Python only where the graph is captured.
"""

from __future__ import annotations

import functools
import re
import sys
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import UndescribedError

_PREFILL, _DECODE = "BatchPrefillWithPagedKVCacheWrapper", "BatchDecodeWithPagedKVCacheWrapper"
_Plan = dict[str, Any]


def patch_prefill(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flashinfer.prefill``."""
    return _patch(recorder, getattr(module, _PREFILL))


def patch_decode(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flashinfer.decode``."""
    return _patch(recorder, getattr(module, _DECODE))


def _patch(recorder: Recorder, cls: Any) -> Callable[[], None]:
    plans: weakref.WeakKeyDictionary[Any, _Plan] = weakref.WeakKeyDictionary()
    lengths, original = Lengths(recorder), cls.plan
    names = entry_point.parameters(original)[0]

    @functools.wraps(original)
    def plan(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.paused:
            given = dict(zip(names, (self, *args), strict=False)) | kwargs
            plans[self] = {
                name: _host(lengths, name, value) for name, value in given.items() if name != "self"
            }
        return original(self, *args, **kwargs)

    cls.plan = plan
    begin = vars(cls).get("begin_forward")  # the older name of the same function
    if begin is original:
        cls.begin_forward = plan

    def restore() -> None:
        cls.plan = original
        if begin is original:
            cls.begin_forward = original

    read = functools.partial(_read, plans)
    run = entry_point.patch(recorder, cls, "run", "flashinfer", read, by_arguments=False)
    return entry_point.patch_all([restore, run])


def _host(lengths: Lengths, name: str, value: Any) -> Any:
    """A plain argument as it is, each request's numbers where they are on the host, of others nothing."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name in ("qo_indptr", "paged_kv_indptr", "paged_kv_last_page_len", "indptr", "last_page_len"):
        known = lengths.of(value)
        return len(value) if known is None else known
    return None


def _read(
    plans: weakref.WeakKeyDictionary[Any, _Plan], lengths: Lengths, given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    wrapper, q, cache = given["self"], given["q"], given["paged_kv_cache"]
    plan = plans.get(wrapper)
    if plan is None:
        raise UndescribedError("its plan was made before it was recorded")
    pages: Any = plan.get("paged_kv_indptr", plan.get("indptr"))
    last = plan.get("paged_kv_last_page_len", plan.get("last_page_len"))
    page, heads = plan["page_size"], plan["num_kv_heads"]
    batch = (pages if type(pages) is int else len(pages)) - 1
    head_dim = plan.get("head_dim_qk", plan.get("head_dim"))
    many = cache[0].shape[0] if isinstance(cache, tuple | list) else cache.shape[0]
    known = _known(plan, pages, last, page, batch) or lengths.steps_of(batch)
    window = plan.get("window_left", -1)
    return (
        "flashinfer",
        "batch_paged",
        taken(
            q,
            (many, page, heads, head_dim),
            (many, page, heads, plan.get("head_dim_vo") or head_dim),
            causal=bool(plan.get("causal", "qo_indptr" not in plan)),
            window_left=-1 if window is None else window,
            window_right=-1 if window in (None, -1) else 0,
            softcap=float(plan.get("logits_soft_cap") or 0.0),
            scale=plan.get("sm_scale"),
            batch=batch,
            max_seqlen_q=max(known.get("seqlens_q", ()), default=None),
            max_seqlen_k=max(known.get("seqlens_k", ()), default=None),
            backend=getattr(wrapper, "_backend", None),
            tensor_cores=getattr(wrapper, "_use_tensor_cores", None),  # of decode alone
            cuda_graph=bool(getattr(wrapper, "is_cuda_graph_enabled", False)),
            fixed_split_size=plan.get("fixed_split_size"),
            disable_split_kv=bool(plan.get("disable_split_kv")),
            **_promised(plan, known, wrapper),
            sinks=given.get("sinks") is not None,
            **known,
        ),
    )


def _promised(plan: _Plan, known: dict[str, list[int]], wrapper: Any) -> dict[str, Any]:
    """What the planner is told of how many queries every sequence has: the decode wrapper says it by itself.

    Source: flashinfer 0.7.2 and 0.7.4, decode.py ``plan``, prefill.py ``_resolve_uniform_q_len``.
    """
    if "qo_indptr" in plan:
        told = plan.get("uniform_q_len") or 0
        return {"uniform_q_len": told if set(known.get("seqlens_q", ())) == {told} else 0}
    package = sys.modules.get(type(wrapper).__module__.partition(".")[0])
    found = re.findall(r"\d{1,6}", str(getattr(package, "__version__", ""))[:40])
    always = [int(part) for part in found[:3]] >= [0, 7, 4]
    queries = plan.get("q_len_per_req") or 1
    told = queries if always or queries > 1 else 0
    return {"uniform_q_len": told, "fixed_uniform_q_len": always}


def _known(plan: _Plan, pages: Any, last: Any, page: int, batch: int) -> dict[str, list[int]]:
    """Each request's lengths, where the plan had all of them on the host."""
    starts = plan.get("qo_indptr")
    if not isinstance(pages, list) or not isinstance(last, list) or type(starts) is int:
        return {}
    queries = [b - a for a, b in pairwise(starts)] if starts else [1] * batch
    keys = [
        (b - a - 1) * page + end if b > a else 0 for (a, b), end in zip(pairwise(pages), last, strict=True)
    ]
    return {"seqlens_q": queries, "seqlens_k": keys}
