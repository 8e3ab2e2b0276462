"""Knows which step of SGLang's scheduler the program is in, and which requests it holds.

One step is one ``ModelRunner.forward`` that has requests. Their lengths are those that the scheduler keeps on
the host: nothing is read from a device.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines.packed_steps import Request, begin_step
from attnprof.instrument.recorder import Recorder, dtype_name
from attnprof.instrument.undescribed import reason

_NO_STEP = ("IDLE", "PREBUILT", "DUMMY_FIRST")
_DRAFTS = ("DRAFT_EXTEND_V2", "DRAFT_EXTEND")
_EXTENDS = ("EXTEND", "MIXED", "SPLIT_PREFILL", "DLLM_EXTEND")


def patch(recorder: Recorder, module: Any) -> Callable[[], None]:
    """Hooks ``sglang.srt.model_executor.model_runner``; returns what undoes it."""
    cls, numbers = module.ModelRunner, weakref.WeakKeyDictionary[Any, int]()
    known: dict[str, int] = {}
    original = cls.forward

    @functools.wraps(original)
    def forward(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        mode = getattr(getattr(batch, "forward_mode", None), "name", "")
        if recorder.paused or recorder.in_step or not mode or mode in _NO_STEP:
            return original(self, batch, *args, **kwargs)
        try:
            requests = scheduled(batch, mode, known)
            if self not in numbers:
                role = "draft" if getattr(self, "is_draft_worker", False) else "decoder"
                rank = getattr(self, "tp_rank", None)
                if isinstance(rank, int) and getattr(self, "tp_size", 1) > 1:
                    recorder.fact("rank", rank)
                numbers[self] = recorder.met_model(_describe(self), None, role)
            outer = begin_step(recorder, requests, numbers[self], draft=mode in _DRAFTS)
        except Exception as error:  # another SGLang than those known: it runs on, unrecorded
            recorder.note(f"SGLang's steps are not recorded: {reason(error)}")
            return original(self, batch, *args, **kwargs)
        try:
            return original(self, batch, *args, **kwargs)
        finally:
            recorder.end_step(outer)

    cls.forward = forward

    def restore() -> None:
        cls.forward = original

    return restore


def scheduled(batch: Any, mode: str, known: dict[str, int]) -> dict[str, Request]:
    """The requests of a ForwardBatch by SGLang's id, in the batch's order; ``known`` numbers them.

    Raises ValueError where its lengths are on the device alone.
    """
    if batch.seq_lens_cpu is None:
        raise ValueError("the lengths of a batch are on the device alone")
    keys = [int(length) for length in batch.seq_lens_cpu.tolist()]
    extends = mode in _EXTENDS
    given = getattr(batch, "extend_seq_lens_cpu", None) if extends else None
    per_request = getattr(getattr(batch, "spec_info", None), "num_tokens_per_req", 1) or 1
    tokens = list(given) if given is not None else [max(int(per_request), 1)] * len(keys)
    names = list(getattr(batch, "rids", None) or ()) or [f"#{place}" for place in range(len(keys))]
    # A mixed batch has the requests that decode behind those that extend: one token each.
    found = {}
    for name, q, k in zip(names, tokens, keys, strict=True):
        number = known.setdefault(name, len(known)) if not name.startswith("#") else None
        found[name] = Request(number, int(q), k, extends and not (mode == "MIXED" and q == 1 and k > 1))
    return found


def _describe(runner: Any) -> dict[str, Any]:
    config = runner.model_config
    heads = getattr(config, "num_attention_heads", None)
    window = getattr(config, "sliding_window_size", None)
    return {
        "name": str(getattr(config, "model_path", "")),
        "num_layers": getattr(config, "num_hidden_layers", None),
        "num_heads": heads,
        "num_heads_k": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "window": window if type(window) is int else None,
        "dtype": dtype_name(getattr(config, "dtype", None)),
        "weights": None,
    }
