"""Records calls into the flash_attn extension, below every Python wrapper of the library.

The extension is a module global of the library's Python interface, looked up at each call; a forwarding proxy
in its place sees every path, also those inside torch custom ops.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from attnprof.instrument.alike import ANYTHING, Question, equal, of_type, placed, shaped, unwritten
from attnprof.instrument.recorder import Recorder, dtype_name, keep, kept_value, shape, sizes, unread
from attnprof.instrument.recording import Args, Known, Kwargs, picking, recording
from attnprof.instrument.undescribed import (
    UndescribedError,
    described,
    is_fake,
    number,
    require_tensors,
    scalar,
    unseen,
)

# Positional arguments of the C++ entries, oldest first; their number tells the release apart.
# Source: flash_attn csrc/flash_attn/flash_api.cpp (mha_fwd, mha_varlen_fwd, mha_fwd_kvcache), tags v2.4.0 to
# v2.8.3.post1 and the development branch; hopper/flash_attn_interface.py for flash_attn_3.
_FWD = "q k v out alibi_slopes dropout_p scale causal window_left window_right softcap return_softmax rng"
_VARLEN = (
    "q k v out cu_seqlens_q cu_seqlens_k seqused_k leftpad_k block_table alibi_slopes max_seqlen_q"
    " max_seqlen_k dropout_p scale zero_tensors causal window_left window_right softcap return_softmax rng"
)
_KVCACHE = (
    "q k v k_new v_new cache_seqlens rotary_cos rotary_sin cache_batch_idx leftpad_k block_table"
    " alibi_slopes out scale causal window_left window_right softcap rotary_interleaved num_splits"
)
_FA3 = (
    "q k v k_new v_new qv out cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q seqused_k max_seqlen_q"
    " max_seqlen_k block_table cache_batch_idx leftpad_k rotary_cos rotary_sin seqlens_rotary q_descale"
    " k_descale v_descale scale causal window_left window_right attention_chunk softcap rotary_interleaved"
    " scheduler_metadata num_splits pack_gqa sm_margin"
)


def _without(names: str, *absent: str) -> tuple[str, ...]:
    return tuple(name for name in names.split() if name not in absent)


_RELEASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "fwd": (
        _without(_FWD, "softcap"),  # 2.4.0 to 2.5.9
        _without(_FWD),  # 2.6.0 on
    ),
    "varlen_fwd": (
        _without(_VARLEN, "leftpad_k", "block_table", "softcap"),  # 2.4.0 to 2.5.6
        _without(_VARLEN, "leftpad_k", "softcap"),  # 2.5.7 to 2.5.9
        _without(_VARLEN, "leftpad_k"),  # 2.6.0
        _without(_VARLEN),  # 2.6.1 to 2.8.3
        _without(_VARLEN + " num_splits"),  # after 2.8.3
    ),
    "fwd_kvcache": (
        _without(_KVCACHE, "leftpad_k", "block_table", "softcap"),  # 2.4.x
        _without(_KVCACHE, "leftpad_k", "softcap"),  # 2.5.x
        _without(_KVCACHE, "leftpad_k"),  # 2.6.0
        _without(_KVCACHE),  # 2.6.1 on
    ),
}
_ARGUMENTS = {(entry, len(names)): names for entry, releases in _RELEASES.items() for names in releases}
_FA3_2_7 = _without(
    _FA3.replace("attention_chunk", "sink_token_length"), "qv", "seqlens_rotary", "scheduler_metadata"
)
_ARGUMENTS_FA3 = {("fwd", 34): _without(_FA3)}
_ARGUMENTS_FA3_2_7 = {("fwd", 31): _FA3_2_7}

_EXTENSIONS = {  # interface module -> library, names of the extension global, argument lists
    "flash_attn.flash_attn_interface": ("flash_attn", ("flash_attn_gpu", "flash_attn_cuda"), _ARGUMENTS),
    "flash_attn_interface": ("flash_attn_3", ("flash_attn_3_gpu", "flash_attn_3_cuda"), _ARGUMENTS_FA3),
}
INTERFACES = tuple(_EXTENSIONS)


def patch(recorder: Recorder, interface: Any) -> Callable[[], None]:
    """Puts a proxy on the extension of an imported interface module; returns what takes it off."""
    library, candidates, arguments = _EXTENSIONS[interface.__name__]
    name = next((candidate for candidate in candidates if hasattr(interface, candidate)), None)
    if name is None:
        recorder.note(f"{interface.__name__} has none of {', '.join(candidates)}: its calls are not recorded")
        return lambda: None
    if library == "flash_attn_3":
        arguments = _arguments_of_fa3(recorder)
    extension = getattr(interface, name)
    proxy = ExtensionProxy(extension, recorder, library, arguments)
    setattr(interface, name, proxy)

    def restore() -> None:
        if getattr(interface, name) is proxy:
            setattr(interface, name, extension)

    return restore


def _arguments_of_fa3(recorder: Recorder) -> dict[tuple[str, int], tuple[str, ...]]:
    """The argument lists of the installed flash_attn_3; says where its version is not the package's."""
    from attnprof.machine.library_versions import find_installed

    found = find_installed("flash_attn_3")
    if found and found.note:
        recorder.note(found.note)
    # Between 2.7.4 and 2.8.0 a list of 31 had another order.
    return _ARGUMENTS_FA3_2_7 if found and found.version.startswith("2.7.") else _ARGUMENTS_FA3


class ExtensionProxy:
    """Forwards everything to the extension; records the forward entries on the way."""

    def __init__(
        self,
        extension: Any,
        recorder: Recorder,
        library: str = "flash_attn",
        arguments: dict[tuple[str, int], tuple[str, ...]] = _ARGUMENTS,
    ) -> None:
        self._extension = extension
        self._recorder = recorder
        for entry in {entry for entry, _ in arguments}:
            if hasattr(extension, entry):
                setattr(self, entry, self._recording(entry, library, arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extension, name)

    def _recording(
        self, entry: str, library: str, arguments: dict[tuple[str, int], tuple[str, ...]]
    ) -> Callable[..., Any]:
        original = getattr(self._extension, entry)
        recorder = self._recorder
        function = f"{getattr(self._extension, '__name__', library)}.{entry}"
        called = (function, library, entry)
        lists = {count: names for (of, count), names in arguments.items() if of == entry}

        def look(args: Args, kwargs: Kwargs) -> tuple[Args, Args] | None:
            names = lists.get(len(args) + len(kwargs))
            if names is None:
                recorder.note(f"{function} took {len(args)} arguments, as no known release: not recorded")
                return None
            if kwargs:  # the extension takes them by its own names
                raise UndescribedError(f"arguments by name: {', '.join(kwargs)}")
            with unseen():
                taken = _snapshot(dict(zip(names, args, strict=True)))
            return (*called, taken), (*called, unread(taken))

        told = _Told(lists)
        return recording(recorder, original, Known(recorder, called, describe, look, ask=told.ask), told.tell)


class _Told:
    """What tells a call from others: of its tensors the shapes, of those whose values count the state too.

    A tensor that was written to is another, and so is one of a number that is no tensor any more. ``lists``
    are the arguments' names, by how many there are.
    """

    def __init__(self, lists: dict[int, tuple[str, ...]]) -> None:
        import torch

        self._lists, self._tensor = lists, torch.Tensor
        self._modes, self._tracing = torch._C._len_torch_function_stack, torch._C._is_tracing
        self._transforms = torch._C._functorch.peek_interpreter_stack
        self._picks = {
            count: tuple(
                picking([at for at, name in enumerate(names) if name in chosen])
                for chosen in (_SCALARS, _OPTIONAL)
            )
            for count, names in lists.items()
        }

    def tell(self, args: Args, kwargs: Kwargs) -> Hashable | None:
        count, tensor = len(args), self._tensor
        if kwargs or count not in self._picks:
            return None
        if self._modes() or self._tracing() or self._transforms() is not None:
            return None
        q, k, v = args[:3]
        if not (type(q) is tensor and type(k) is tensor and type(v) is tensor):
            return None
        pick_scalars, pick_optional = self._picks[count]
        scalars, kinds = pick_scalars(args), tuple(map(type, pick_optional(args)))
        if not (_PLAIN.issuperset(map(type, scalars)) and {tensor, int, type(None)}.issuperset(kinds)):
            return None
        named = dict(zip(self._lists[count], args, strict=True))
        given = [(name, named[name]) for name in _OPTIONAL if name in named]
        try:
            return (
                count, kinds, scalars, q.shape, k.shape, v.shape, q.dtype, q.device,
                *[value.shape for name, value in given if name in _SHAPES and type(value) is tensor],
                *[(id(value), value._version) for name, value in given
                  if name in _VALUES and type(value) is tensor],
                *[value for _, value in given if type(value) is int],
            )  # fmt: skip
        except RuntimeError:  # a nested tensor has no shape, one of inference mode no version
            return None

    def ask(self, args: Args) -> list[Question]:
        """What the next call's arguments are asked, after a call of these that was told."""
        return [self._question(name, value) for name, value in zip(self._lists[len(args)], args, strict=True)]

    def _question(self, name: str, value: Any) -> Question:
        if name in _TENSORS:
            return placed(value) if name == "q" else shaped(value)
        if name in _SCALARS or (name in _OPTIONAL and type(value) is not self._tensor):
            return equal(value)
        if name not in _OPTIONAL:
            return ANYTHING
        if name in _SHAPES:
            return shaped(value)
        return unwritten(value) if name in _VALUES else of_type(type(value))


_TENSORS = ("q", "k", "v")
_SHAPES = ("q", "k", "v", "k_new", "block_table")
_WHETHER_GIVEN = ("cache_batch_idx", "scheduler_metadata", "qv", "leftpad_k")
_ONLY_FA3 = ("pack_gqa", "attention_chunk", "sm_margin", "scheduler_metadata", "qv", "leftpad_k")
_SCALARS = (
    "dropout_p", "scale", "causal", "window_left", "window_right", "softcap", "return_softmax", "num_splits",
    "pack_gqa", "attention_chunk", "sm_margin",
)  # fmt: skip
_PLAIN = {bool, int, float, type(None)}
_VALUES = ("cu_seqlens_q", "cu_seqlens_k", "cache_seqlens", "seqused_k", "max_seqlen_q", "max_seqlen_k")
_OPTIONAL = ("k_new", "block_table", "alibi_slopes", *_WHETHER_GIVEN, *_VALUES)


def _snapshot(given: dict[str, Any]) -> dict[str, Any]:
    """What a call was given, without reading a value from the device. Raises where it cannot be told."""
    q = given["q"]
    require_tensors(**{name: given[name] for name in _TENSORS})
    taken: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, int | float)}
    taken |= {name: shape(given[name]) for name in _SHAPES if given.get(name) is not None}
    taken |= {name: keep(given[name]) for name in _VALUES if name in given}
    taken["alibi"] = given.get("alibi_slopes") is not None
    taken |= {name: given.get(name) is not None for name in _WHETHER_GIVEN}
    taken["has_cache_seqlens"] = given.get("cache_seqlens", given.get("seqused_k")) is not None
    if given.get("cu_seqlens_q") is not None:
        taken["batch"] = len(given["cu_seqlens_q"]) - 1
    taken["dtype"], taken["device"] = q.dtype, f"fake {q.device}" if is_fake(q) else q.device
    return taken


def describe(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of one call in calls.jsonl."""
    return described(_fields, arguments[:3], arguments)


def _fields(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The same. Raises where they cannot be told."""
    function, library, entry, given = arguments
    if library == "flash_attn_3":
        entry = _entry_of_fa3(given)
    record = {
        "function": function,
        "library": library,
        "entry": entry,
        "backend": None,
        "device": str(given["device"]),
        "dtype": dtype_name(given["dtype"]),
        "q": sizes(given["q"]),
        "k": sizes(given["k"]),
        "v": sizes(given["v"]),
        "layout": "thd" if entry in ("varlen_fwd", "batch_paged") else "bshd",
        "causal": bool(given["causal"]),
        "window": [given["window_left"], given["window_right"]],
        "softcap": scalar("softcap", given.get("softcap", 0.0)),
        "dropout_p": scalar("dropout_p", given.get("dropout_p", 0.0)),
        "alibi": given["alibi"],
        "return_softmax": bool(given.get("return_softmax", False)),
        "scale": number(given.get("scale")),
    }
    if entry in ("varlen_fwd", "batch_paged"):
        for name in ("max_seqlen_q", "max_seqlen_k", "cu_seqlens_q", "cu_seqlens_k"):
            record[name] = kept_value(given.get(name))
        if given.get("seqused_k") is not None:
            record["seqused_k"] = kept_value(given["seqused_k"])
        record["block_table"] = sizes(given.get("block_table"))
        record["batch"] = given["batch"]
    if entry == "fwd_kvcache":
        record["k_new"] = sizes(given.get("k_new"))
        record["cache_seqlens"] = kept_value(given.get("cache_seqlens", given.get("seqused_k")))
        # cache_seqlens is null where the tensor was written to since: whether it was given matters
        record["has_cache_seqlens"] = given["has_cache_seqlens"]
        record["cache_batch_idx"] = given["cache_batch_idx"]
        record["block_table"] = sizes(given.get("block_table"))
    if "num_splits" in given:
        record["num_splits"] = given["num_splits"]
    if library == "flash_attn_3":
        record |= {name: given.get(name) for name in _ONLY_FA3}
        if entry == "fwd_kvcache" and "batch" in given:
            record["batch"], record["max_seqlen_q"] = given["batch"], kept_value(given.get("max_seqlen_q"))
            record["cu_seqlens_q"] = kept_value(given.get("cu_seqlens_q"))
    return record


def _entry_of_fa3(given: dict[str, Any]) -> str:
    """flash_attn_3 has one C++ entry; which Python function called it shows in what was given.

    A cache whose queries alone are packed is ``fwd_kvcache`` too: the record then has ``batch``.
    """
    if given.get("cu_seqlens_k") is not None:
        return "varlen_fwd"
    cache = ("k_new", "block_table", "seqused_k", "cu_seqlens_q")
    return "fwd_kvcache" if any(given.get(name) is not None for name in cache) else "fwd"
