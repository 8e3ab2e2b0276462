"""Records a Python function through which attention is launched: one wrapper, told what the function takes.

Nothing is read from a device. Lengths that lie there are those that the engine's scheduler stated for the
step that is open, as ``lengths_of`` "step" says; lengths on the host are read as passed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from attnprof.instrument import flash_attn
from attnprof.instrument.engines.likeness import Likeness
from attnprof.instrument.forwarding import named_alone
from attnprof.instrument.recorder import Recorder, shape
from attnprof.instrument.recording import Args, Known, Kwargs, recording_by_parameter
from attnprof.instrument.recording import recording as recorded
from attnprof.instrument.undescribed import Called, is_fake, require_tensors, unseen

# From a function's arguments by name: (library, entry, what ``flash_attn.describe`` turns into a record).
Read = Callable[["Lengths", dict[str, Any]], tuple[str, str, dict[str, Any]]]

_PLAIN = bool | int | float | str | None


def patch(
    recorder: Recorder, owner: Any, name: str, library: str, read: Read, *, by_arguments: bool = True
) -> Callable[[], None]:
    """Replaces ``owner.name`` by one that records and forwards; returns what puts the original back.

    ``library`` is what a call is filed under that cannot be read. ``by_arguments``: calls of a step whose
    arguments are alike are recorded alike, so that ``read`` is asked once for all layers. Raises
    AttributeError where there is no such function.
    """
    before = inspect.getattr_static(owner, name)
    original = before.__func__ if isinstance(before, staticmethod) else before
    place = f"{owner.__module__}.{owner.__qualname__}" if inspect.isclass(owner) else owner.__name__
    record = recording(recorder, original, f"{place}.{name}", library, read, by_arguments=by_arguments)
    setattr(owner, name, staticmethod(record) if isinstance(before, staticmethod) else record)

    def restore() -> None:
        if getattr(inspect.getattr_static(owner, name), "__wrapped__", None) is original:
            setattr(owner, name, before)

    return restore


def recording(
    recorder: Recorder,
    original: Callable[..., Any],
    function: str,
    library: str,
    read: Read,
    *,
    by_arguments: bool = True,
) -> Callable[..., Any]:
    """A function that records and forwards; as ``patch``."""
    called = function, library, "fwd"
    names, defaults = parameters(original)
    lengths = Lengths(recorder)

    def look(args: Args, kwargs: Kwargs) -> tuple[Args, None]:
        with unseen():
            filed, entry, taken = read(lengths, defaults | dict(zip(names, args, strict=False)) | kwargs)
        if recorder.stage is not None:
            taken["stage"] = recorder.stage
        return (called[0], filed, entry, taken), None

    # What a step's calls are told by lives as long as they are known, and is of use in that step alone.
    alike = Likeness(recorder, names)
    known = Known(recorder, called, describe, look, alike.keep, most=8, ask=alike.ask)
    if not by_arguments:
        return recorded(recorder, original, known, _untold)
    if names and named_alone(original) == names and _number_of_defaults(original) == len(defaults):
        return recording_by_parameter(recorder, original, known, alike.tell)
    return recorded(recorder, original, known, alike.tell)


def _untold(args: Args, kwargs: Kwargs) -> None:
    return None


def _number_of_defaults(function: Any) -> int:
    return len(function.__defaults__ or ()) + len(function.__kwdefaults__ or {})


def parameters(function: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of a function's parameters, and the defaults among them that are plain values."""
    known = inspect.signature(function).parameters.values()
    defaults = {one.name: one.default for one in known if isinstance(one.default, _PLAIN | tuple)}
    return tuple(one.name for one in known), defaults


def patch_all(undo: list[Callable[[], None]]) -> Callable[[], None]:
    """One undo for several."""

    def restore() -> None:
        for one in reversed(undo):
            one()

    return restore


class Lengths:
    """Each request's lengths as far as the host knows them, read once for all layers of a step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._read: dict[int, tuple[Any, dict[str, Any], list[int]]] = {}

    def of(self, tensor: Any) -> list[int] | None:
        """The values of a tensor on the host; None for one that lies on a device, or none."""
        if isinstance(tensor, list | tuple):
            return [int(value) for value in tensor]
        if getattr(tensor, "device", None) is None or tensor.device.type != "cpu" or is_fake(tensor):
            return None
        step = self._recorder.open_step
        known = self._read.get(id(tensor))
        if step and known is not None and known[0] is tensor and known[1] is step:
            return known[2]
        if len(self._read) > 8:  # those of past steps
            self._read.clear()
        values: list[int] = tensor.tolist()
        self._read[id(tensor)] = tensor, step, values
        return values

    def steps_of(self, batch: int) -> dict[str, Any]:
        """The lengths that the open step states, as fields of a call of so many requests; {} for another."""
        step = self._recorder.open_step
        queries, keys = step.get("seqlens_q"), step.get("seqlens_k")
        if not queries or not keys or len(queries) != batch:
            return {}
        return {"seqlens_q": queries, "seqlens_k": keys, "lengths_of": "step"}

    def packed(self, cu_seqlens_q: Any, seqlens_k: Any, batch: int) -> dict[str, Any]:
        """The lengths of a packed call, from what it was given: cumulative of Q, each of K."""
        ends, keys = self.of(cu_seqlens_q), self.of(seqlens_k)
        if ends is None or keys is None:
            return self.steps_of(batch)
        return {"seqlens_q": _between(ends, batch), "seqlens_k": keys[:batch]}

    def between(self, cu_seqlens_q: Any, cu_seqlens_k: Any, batch: int) -> dict[str, Any]:
        """The same where both are cumulative."""
        of_q, of_k = self.of(cu_seqlens_q), self.of(cu_seqlens_k)
        if of_q is None or of_k is None:
            return self.steps_of(batch)
        return {"seqlens_q": _between(of_q, batch), "seqlens_k": _between(of_k, batch)}


def _between(starts: list[int], batch: int) -> list[int]:
    return [end - start for start, end in pairwise(starts[: batch + 1])]


def taken(q: Any, k: Any, v: Any, **given: Any) -> dict[str, Any]:
    """The part of a record that every call has; ``given`` by flash_attn's names, its defaults filled in.

    ``k`` and ``v`` may be shapes where the library takes one tensor for both.
    """
    require_tensors(q=q)
    made = {
        "q": shape(q),
        "k": k if isinstance(k, tuple) else shape(k),
        "v": v if isinstance(v, tuple) else shape(v),
        "dtype": q.dtype,
        "device": f"fake {q.device}" if is_fake(q) else q.device,
    }
    return {**_DEFAULTS, **made, **given}


_DEFAULTS = {
    "causal": False,
    "window_left": -1,
    "window_right": -1,
    "softcap": 0.0,
    "dropout_p": 0.0,
    "alibi": False,
    "has_cache_seqlens": True,
    "cache_batch_idx": False,
}

_MORE = (  # what flash_attn's own records do not have
    "seqlens_q", "seqlens_k", "lengths_of", "stage", "cuda_graph", "backend", "head_dim_v", "layout", "mask",
    "enable_gqa", "fixed_split_size", "disable_split_kv", "fa_version", "pack_gqa", "scheduler_metadata",
    "sinks", "kv_dtype", "segments", "threshold", "max_kv_splits", "sparse", "mask_kind", "score_mod",
    "build", "index_topk", "extra_cache", "extra_topk", "extra_counted", "counted", "qv", "tensor_cores",
    "uniform_q_len", "fixed_uniform_q_len", "max_seq_len",
    "older_half", "unified",
)  # fmt: skip


def describe(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of one call in calls.jsonl."""
    function, library, entry = arguments[:3]
    if len(arguments) < 4 or not isinstance(arguments[3], dict):
        return flash_attn.describe(tuple(arguments))
    given = arguments[3]
    called: Called = (function, library, entry)
    described = flash_attn.describe((*called, given))
    if "not_described" in described:
        return described
    return described | {name: _plain(given[name]) for name in _MORE if given.get(name) is not None}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
