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
from attnprof.instrument.engines.flashinfer_functions import DECODE, PREFILL, patch_functions
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import UndescribedError

_PREFILL, _DECODE = "BatchPrefillWithPagedKVCacheWrapper", "BatchDecodeWithPagedKVCacheWrapper"
_RAGGED, _MLA = "BatchPrefillWithRaggedKVCacheWrapper", "BatchMLAPagedAttentionWrapper"
_ON_HOST = (
    "qo_indptr", "paged_kv_indptr", "paged_kv_last_page_len", "indptr", "last_page_len", "kv_indptr",
    "kv_len_arr",
)  # fmt: skip
_Plan = dict[str, Any]


def patch_prefill(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flashinfer.prefill``."""
    undo = [_patch(recorder, getattr(module, _PREFILL), _read)]
    if hasattr(module, _RAGGED):
        undo.append(_patch(recorder, getattr(module, _RAGGED), _read_ragged))
    return entry_point.patch_all([*undo, *patch_functions(recorder, module, PREFILL)])


def patch_decode(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flashinfer.decode``."""
    undo = _patch(recorder, getattr(module, _DECODE), _read)
    return entry_point.patch_all([undo, *patch_functions(recorder, module, DECODE)])


def patch_mla(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flashinfer.mla``."""
    return _patch(recorder, getattr(module, _MLA), _read_mla)


def _patch(recorder: Recorder, cls: Any, read_run: Callable[..., Any]) -> Callable[[], None]:
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

    read = functools.partial(read_run, plans)
    run = entry_point.patch(recorder, cls, "run", "flashinfer", read, by_arguments=False)
    return entry_point.patch_all([restore, run])


def _host(lengths: Lengths, name: str, value: Any) -> Any:
    """A plain argument as it is, each request's numbers where they are on the host, of others nothing."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name in _ON_HOST:
        known = lengths.of(value)
        return len(value) if known is None else known
    return None


def _read(
    plans: weakref.WeakKeyDictionary[Any, _Plan], lengths: Lengths, given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    wrapper, q, cache = given["self"], given["q"], given["paged_kv_cache"]
    plan = _planned(plans, wrapper)
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


def _planned(plans: weakref.WeakKeyDictionary[Any, _Plan], wrapper: Any) -> _Plan:
    plan = plans.get(wrapper)
    if plan is None:
        raise UndescribedError("its plan was made before it was recorded")
    return plan


def _starts(plan: _Plan, lengths: Lengths, keys: list[int] | None) -> tuple[int, dict[str, Any]]:
    """How many requests a plan has, and their lengths: queries by their starts, ``keys`` of each."""
    starts: Any = plan["qo_indptr"]
    batch = (starts if type(starts) is int else len(starts)) - 1
    if isinstance(starts, list) and keys is not None:
        return batch, {"seqlens_q": [b - a for a, b in pairwise(starts)], "seqlens_k": keys}
    return batch, lengths.steps_of(batch)


def _read_ragged(
    plans: weakref.WeakKeyDictionary[Any, _Plan], lengths: Lengths, given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Packed keys, which are pages of one."""
    wrapper, q, k, v = given["self"], given["q"], given["k"], given["v"]
    plan = _planned(plans, wrapper)
    ends: Any = plan["kv_indptr"]
    keys = [b - a for a, b in pairwise(ends)] if isinstance(ends, list) else None
    batch, known = _starts(plan, lengths, keys)
    window = plan.get("window_left", -1)
    return (
        "flashinfer",
        "batch_paged",
        taken(
            q,
            (k.shape[0], 1, *k.shape[1:]),
            (v.shape[0], 1, *v.shape[1:]),
            causal=bool(plan.get("causal")),
            window_left=window,
            window_right=-1 if window == -1 else 0,
            softcap=float(plan.get("logits_soft_cap") or 0.0),
            scale=plan.get("sm_scale"),
            batch=batch,
            backend=getattr(wrapper, "_backend", None),
            cuda_graph=bool(getattr(wrapper, "is_cuda_graph_enabled", False)),
            fixed_split_size=plan.get("fixed_split_size"),
            disable_split_kv=bool(plan.get("disable_split_kv")),
            **known,
        ),
    )


def _read_mla(
    plans: weakref.WeakKeyDictionary[Any, _Plan], lengths: Lengths, given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """Latents in one cache and the rotated part in another, as one row of a page."""
    wrapper, q, rotated, cache = given["self"], given["q_nope"], given["q_pe"], given["ckv_cache"]
    plan = _planned(plans, wrapper)
    keys: Any = plan["kv_len_arr"]
    batch, known = _starts(plan, lengths, keys if isinstance(keys, list) else None)
    latent, wide = q.shape[-1], q.shape[-1] + rotated.shape[-1]
    pages, page = cache.shape[0], plan["page_size"]
    return (
        "flashinfer",
        "batch_paged",
        taken(
            q,
            (pages, page, 1, wide),
            (pages, page, 1, latent),
            causal=bool(plan.get("causal")),
            scale=plan.get("sm_scale"),
            batch=batch,
            backend=getattr(wrapper, "_backend", None),
            cuda_graph=bool(getattr(wrapper, "_use_cuda_graph", False)),
            **known,
        )
        | {"q": (*q.shape[:2], wide)},
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
