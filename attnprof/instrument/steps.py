"""Knows which model forward and which of its layers the program is in.

Works on any Hugging Face model. The outermost PreTrainedModel that is called is one step; an encoder inside
the forward of an encoder-decoder is a step of its own, a vision or audio tower part of the step it serves.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from attnprof.instrument.caches import (
    CacheLengths,
    batch_and_length,
    capacity,
    find_cache,
    named_arguments,
    output_size,
    packed_requests,
)
from attnprof.instrument.layers import Layers
from attnprof.instrument.models import describe_model, is_decoder, layers
from attnprof.instrument.modules import ModuleRanges, wanted
from attnprof.instrument.recorder import Recorder


class _Model:
    """What is known of one model: ``number`` among those that made steps, None before the first."""

    def __init__(self, model: Any) -> None:
        self.decodes = is_decoder(model)
        self.encodes_first = bool(getattr(model.config, "is_encoder_decoder", False))
        self.number: int | None = None
        self.decoding: set[int] = set()  # ids of caches past their prefill


class _Generation:
    """A generate() that is running: of ``model``, with a prompt of so many tokens, None if not known."""

    def __init__(self, model: Any, prompt: int | None) -> None:
        self.model, self.prompt = model, prompt
        self._prefilled: int | None = None  # tokens in the cache when the prompt is through

    def phase(self, past: int, seqlen_q: int) -> str:
        """The first forward and those until the prompt is through are prefill, whatever follows is decode."""
        if self._prefilled is None:
            more = self.prompt is not None and past < self.prompt
            self._prefilled = self.prompt if more else past + seqlen_q
            return "prefill"
        return "prefill" if past < (self._prefilled or 0) else "decode"


class Place(threading.local):
    """Where this thread is: whose step, and the generate() calls around it."""

    model: _Model | None = None
    generating: tuple[_Generation, ...] = ()


class StepWatcher:
    """Turns forwards of models into steps, and their blocks into layers."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.place = Place()
        self._models: weakref.WeakKeyDictionary[Any, _Model] = weakref.WeakKeyDictionary()
        self._inner: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()
        self._lengths = CacheLengths()
        self._layers = Layers(recorder)
        self._modules: ModuleRanges | None = None

    def forward(
        self, model: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls the model, inside a step where its forward is one."""
        if self.recorder.paused:
            return call(*args, **kwargs)
        place, known, here = self.place, self._known(model), self.recorder.context.here
        if known is place.model or here.in_tower:
            return call(*args, **kwargs)
        if known.decodes:
            return (self._decode if place.model is None else _as_it_is)(model, known, call, args, kwargs)
        serves = place.model or self._generating_around(model)
        if serves is None or serves.encodes_first:
            return self._encode(model, known, call, args, kwargs)
        here.in_tower = True
        outer = self.recorder.begin_ahead("prefill") if place.model is None else None
        try:
            return call(*args, **kwargs)
        finally:
            here.in_tower = False
            if outer is not None:
                self.recorder.end_step(outer)

    def generate(
        self, model: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls the model's generate() and notes which steps it came to, and how many tokens."""
        place, recorder = self.place, self.recorder
        if recorder.paused:
            return call(*args, **kwargs)
        outer, first, known = place.generating, recorder.next_step, self._known(model)
        given = named_arguments(model, args, kwargs, "generate")
        prompt = batch_and_length({"input_ids": given.get("inputs"), **given})
        place.generating = (*outer, _Generation(model, 1 if known.encodes_first else prompt[1]))
        known.decoding.clear()
        try:
            output = call(*args, **kwargs)
        finally:
            place.generating = outer
        if not outer and known.number is not None:
            sequences: Any = getattr(getattr(output, "sequences", output), "shape", ())
            returned = int(sequences[-1]) if len(sequences) == 2 else None
            ids = any(given.get(name) is not None for name in ("inputs", "input_ids"))
            recorder.generated(
                known.number,
                first,
                prompt,
                returned,
                embedded=not ids and given.get("inputs_embeds") is not None and not known.encodes_first,
                encodes_first=known.encodes_first,
            )
        return output

    def remove(self) -> None:
        """Watches no layer and no module any more."""
        self._layers.remove()
        if self._modules is not None:
            self._modules.remove()

    def _known(self, model: Any) -> _Model:
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = _Model(model)
        return known

    def _met(self, model: Any, known: _Model, role: str) -> int:
        """The model's number, whose layers are watched from its first step on."""
        if known.number is None:
            self._watch_modules(model)
            for block, layer in layers(model):
                self._layers.watch(block, layer)
            attn = getattr(model.config, "_attn_implementation", None)
            attn = attn if isinstance(attn, str) else None
            known.number = self.recorder.met_model(describe_model(model), attn, role)
        else:
            self.recorder.has_role(known.number, role)
        return known.number

    def _watch_modules(self, model: Any) -> None:
        """Gives the model's modules ranges of their own, where that was asked for."""
        if wanted() and self.recorder.ranges.active:
            if self._modules is None:
                self._modules = ModuleRanges(self.recorder, lambda: self.recorder.context.here.in_tower)
            self._modules.watch(model, [block for block, _ in layers(model)])

    def _decode(
        self,
        model: Any,
        known: _Model,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        recorder, place = self.recorder, self.place
        given = named_arguments(model, args, kwargs)
        batch, seqlen_q = batch_and_length(given)
        seqlen_k, cache = seqlen_q, None
        requests = packed_requests(given, batch, seqlen_q)
        more: dict[str, Any] = {}
        if requests is not None:
            phase, batch = requests.phase, requests.count
            seqlen_q, seqlen_k = requests.longest
            more = {"seqlens_q": requests.seqlens_q, "seqlens_k": requests.seqlens_k}
        else:
            cache = find_cache(given.values())
            past = self._lengths.past(cache, seqlen_q)
            phase = self._phase(model, known, cache, past, seqlen_q)
            seqlen_k = None if seqlen_q is None else past + seqlen_q
            more = {"cache": cache is not None}
            if cache is not None and (room := capacity(cache)):
                more["capacity"] = room
        role = "draft" if self._drafts(model, known) else "decoder"
        number = self._met(model, known, role)
        outer = recorder.begin_step(
            "draft" if role == "draft" else phase, seqlen_q, seqlen_k, batch, {"model": number, **more}
        )
        place.model = known
        try:
            output = call(*args, **kwargs)
            if cache is None and requests is None:
                self._lengths.returned(output, seqlen_q)
            return output
        finally:
            place.model = None
            recorder.end_step(outer)

    def _encode(
        self,
        model: Any,
        known: _Model,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        recorder, place, around = self.recorder, self.place, self.place.model
        batch, length = batch_and_length(named_arguments(model, args, kwargs))
        number = self._met(model, known, "encoder")
        outer = recorder.begin_step("encode", length, length, batch, {"model": number})
        place.model = known
        try:
            output = call(*args, **kwargs)
            if length is None:  # of an image or of sound: what came out has the length
                recorder.measured(*output_size(output))
            return output
        finally:
            place.model = around
            recorder.end_step(outer)

    def _drafts(self, model: Any, known: _Model) -> bool:
        """Whether the model proposes tokens for another that generates: it is no part of that one.

        A model that generates inside its own generate() does so with some of its layers: a draft too.
        """
        generating = self.place.generating
        if generating and model is generating[0].model:
            return len(generating) > 1
        return bool(generating) and self._generating_around(model) is None

    def _generating_around(self, model: Any) -> _Model | None:
        """The model that generates, where this one is a part of it."""
        if not self.place.generating:
            return None
        target = self.place.generating[0].model
        if target not in self._inner:
            self._inner[target] = {id(module) for module in target.modules()}
        return self._known(target) if id(model) in self._inner[target] else None

    def _phase(self, model: Any, known: _Model, cache: Any, past: int, seqlen_q: int | None) -> str:
        """Empty cache: prefill. One token: decode. More: a prefill chunk, or a verification once decoding."""
        generating = self.place.generating
        if seqlen_q is not None and generating and generating[0].model is model:
            return generating[0].phase(past, seqlen_q)
        key = 0 if cache is None or isinstance(cache, tuple | list) else id(cache)
        if past == 0:
            known.decoding.discard(key)
        elif seqlen_q == 1:
            known.decoding.add(key)
        return "decode" if key in known.decoding else "prefill"


def _as_it_is(model: Any, known: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A part of the model whose step this is."""
    return call(*args, **kwargs)
