"""What a model forward was given: its tokens, its cache and how much that holds, its packed requests."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from attnprof.instrument.undescribed import unseen

_TOKENS = ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds")
_CAPACITY = ("get_max_length", "get_max_cache_shape")  # of a cache with room for so many from the start


def named_arguments(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str = "forward"
) -> dict[str, Any]:
    """The arguments of a forward, positional ones under the names they are given there."""
    if not args:
        return kwargs
    kind: Any = type(model)
    names = _parameters(kind, method)
    return {names[i] if i < len(names) else f"*{i}": value for i, value in enumerate(args)} | kwargs


@lru_cache(maxsize=256)
def _parameters(model_class: Any, method: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(model_class, method)).parameters)[1:]


@unseen()
def batch_and_length(given: dict[str, Any]) -> tuple[int | None, int | None]:
    """(batch, tokens per sequence) of ids [B, S] or embeddings [B, S, H], the decoder's first."""
    tokens = next((given[name] for name in _TOKENS if given.get(name) is not None), None)
    sizes: Any = getattr(tokens, "shape", ())
    return (int(sizes[0]), int(sizes[1])) if len(sizes) >= 2 else (None, None)


@unseen()
def output_size(output: Any) -> tuple[int | None, int | None]:
    """(batch, length) of the states [B, S, H] that an encoder returns; None where it returns none."""
    states = getattr(output, "last_hidden_state", None)
    if states is None and isinstance(output, tuple | list) and output:
        states = output[0]
    sizes: Any = getattr(states, "shape", ())
    return (int(sizes[0]), int(sizes[1])) if len(sizes) == 3 else (None, None)


def find_cache(arguments: Iterable[Any]) -> Any:
    """The argument that is a cache, whatever its name: what can say how much it holds.

    Or one (key, value, …) per layer, as before transformers had cache classes; or an object that holds
    tensors, as the state of a recurrent model. None where there is none.
    """
    state = None
    for value in arguments:
        if hasattr(value, "get_seq_length") or _is_legacy(value):
            return value
        if state is None and _is_state(value):
            state = value
    return state


def _is_legacy(value: Any) -> bool:
    layer = value[0] if isinstance(value, tuple | list) and value else ()
    pair = isinstance(layer, tuple | list) and len(layer) >= 2
    return pair and all(getattr(tensor, "ndim", 0) == 4 for tensor in layer[:2])


def _is_state(value: Any) -> bool:
    """Whether a plain object's attributes are tensors, or lists or dictionaries of them."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in ("builtins", "torch") or isinstance(value, Mapping):
        return False
    if hasattr(value, "forward"):
        return False
    for held in getattr(value, "__dict__", {}).values():
        if isinstance(held, list | dict) and held:
            held = held[0] if isinstance(held, list) else next(iter(held.values()))
        if hasattr(held, "data_ptr"):
            return True
    return False


class CacheLengths:
    """How many tokens each cache holds, by what it says; counted here where it cannot say, or not at once."""

    def __init__(self) -> None:
        self._counted: dict[int, tuple[weakref.ref[Any], int, bool]] = {}

    @unseen()
    def past(self, cache: Any, seqlen_q: int | None) -> int:
        """Tokens in the cache before a forward of ``seqlen_q`` more."""
        if cache is None:
            return 0
        if isinstance(cache, tuple | list):
            return int(cache[0][0].shape[-2])
        counted, mine = self._count(cache)
        # The answer of one kept on a device would have to be waited for: it is asked but once.
        past = counted if mine else _asked(cache)
        if past is None:
            past, mine = counted, False
        elif not isinstance(past, int):
            mine = past.device.type != "cpu"
            past = int(past)
        self._keep(cache, past + (seqlen_q or 0), mine)
        return past

    @unseen()
    def returned(self, output: Any, seqlen_q: int | None) -> None:
        """A forward without a cache has returned this: a cache in it holds the forward's tokens."""
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else ()
        cache = find_cache(value for value in values if not isinstance(value, tuple | list))
        if cache is not None:
            self._keep(cache, seqlen_q or 0, False)

    def _count(self, cache: Any) -> tuple[int, bool]:
        alive, count, mine = self._counted.get(id(cache), (None, 0, False))
        return (count, mine) if alive is not None and alive() is cache else (0, False)

    def _keep(self, cache: Any, count: int, mine: bool) -> None:
        try:
            gone = self._counted.pop
            key = id(cache)
            self._counted[key] = (weakref.ref(cache, lambda _: gone(key, None)), count, mine)
        except TypeError:  # an object that cannot be watched: it is asked each time
            pass


def _asked(cache: Any) -> Any:
    """What the cache says it holds; None where it cannot say: one of recurrent layers alone has no keys."""
    try:
        return cache.get_seq_length()
    except Exception:  # whatever it is, it must not end the program that is recorded
        return None


def capacity(cache: Any) -> int | None:
    """Keys a cache has room for, and attention may be given whole; None for one that grows."""
    for name in _CAPACITY:
        try:
            most = getattr(cache, name)()
        except Exception:  # absent, or of several minds
            continue
        if isinstance(most, int) and most > 0:
            return most
    return None


class Requests:
    """The requests that one packed forward holds.

    ``seqlens_q`` and ``seqlens_k`` are in tokens, None where they lie on a device and are not read.
    """

    def __init__(self, count: int, total: int, seqlens_q: list[int] | None, seqlens_k: list[int] | None):
        self.count, self.total = count, total
        self.seqlens_q, self.seqlens_k = seqlens_q, seqlens_k

    @property
    def longest(self) -> tuple[int | None, int | None]:
        """(seqlen_q, seqlen_k) of the longest."""
        return max(self.seqlens_q or [0]) or None, max(self.seqlens_k or [0]) or None

    @property
    def phase(self) -> str:
        """All decode, all prefill, else mixed: so too where the lengths were not read and do not tell."""
        if self.seqlens_q is None or self.seqlens_k is None:
            return "decode" if self.total == self.count else "prefill" if self.count == 1 else "mixed"
        decodes = [q == 1 and k > q for q, k in zip(self.seqlens_q, self.seqlens_k, strict=True)]
        return "decode" if all(decodes) else "mixed" if any(decodes) else "prefill"


def packed_requests(given: dict[str, Any], batch: int | None, seqlen_q: int | None) -> Requests | None:
    """The requests of a forward whose batch of one row is packed; None for any other.

    They are told by their cumulative lengths: two rows of integers from 0, one to the tokens given.
    """
    if batch != 1 or not seqlen_q:
        return None
    rows = [row for value in given.values() for row in _rows(value)]
    if len(rows) < 2:
        return None
    if rows[0].device.type != "cpu":
        named = [name for name, value in given.items() if "cu_seq" in name and _rows(value)]
        if not named:
            return None
        return Requests(len(_rows(given[named[0]])[0]) - 1, seqlen_q, None, None)
    ends = [ends for row in rows if (ends := row.tolist())[0] == 0 and ends == sorted(ends)]
    of_q = next((e for e in ends if e[-1] == seqlen_q), None)
    if of_q is None:
        return None
    others = [e for e in ends if e is not of_q and len(e) == len(of_q) and e[-1] >= seqlen_q]
    if not others:
        return None
    of_k = max(others, key=lambda e: e[-1])  # of layer types, the one that keeps all
    lengths_q, lengths_k = ([b - a for a, b in pairwise(e)] for e in (of_q, of_k))
    real = [i for i, length in enumerate(lengths_q) if length]
    return Requests(len(real), seqlen_q, [lengths_q[i] for i in real], [lengths_k[i] for i in real])


def _rows(value: Any) -> list[Any]:
    """The rows of at least two 32-bit integers that an argument is, or holds by name."""
    values = value.values() if type(value) is dict else (value,)
    return [v for v in values if str(getattr(v, "dtype", "")) == "torch.int32" and v.ndim == 1 and len(v) > 1]
