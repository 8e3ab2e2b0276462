"""Whole scenes of programs that are not one model's plain generation: ways in which real traces are not neat.

Encoders with cross-attention, an assistant that drafts, prompts in pieces and on top of a cache, layers
without attention or with a cache of the window's size, batches that shrink, two batches in turn or at once on
streams of their own, mixed steps, a server's warm-up, experts between, and edges cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Library
from tests.spoil.scenes import (
    FORMATS,
    GPUS,
    HOPPER,
    MARKS,
    VERSIONS,
    Scene,
    SceneCall,
    base_call,
    launches_of,
    make_scene,
)

Step = tuple[int, str, list[tuple[int, int, AttentionCall]]]  # generation, phase, (layer, stream, call)
_FIRST, _SECOND = 7, 13  # streams
_LIBRARIES: tuple[Library, ...] = ("flash_attn", "flash_attn", "torch", "flash_attn_3")


def make_unusual(seed: int, *, records: str = "none") -> Scene:
    """The scene of a seed: a draw whose calls the library takes, each with at least one launch."""
    rng = Random(seed)
    if records == "none" and rng.random() < 0.15:
        return _cut(rng)
    while True:
        scene = _draw(rng, records)
        if scene is not None:
            return scene


def _cut(rng: Random) -> Scene:
    """Another scene, of whose first and last kernels some were not recorded."""
    return cut_edges(rng, make_scene(rng.getrandbits(60)))


def cut_edges(rng: Random, whole: Scene) -> Scene:
    """The scene without some of its first and last kernels; nothing is cut beside recorded calls."""
    if whole.records != "none":
        return whole
    return replace(whole, cut=(rng.choice((0, 1, 2, 3, 10)), rng.choice((0, 1, 2, 3, 10))))


def _draw(rng: Random, records: str) -> Scene | None:
    library = rng.choice(_LIBRARIES)
    version = rng.choice(VERSIONS[library])
    gpu = gpu_by_name(rng.choice(HOPPER if library == "flash_attn_3" else GPUS))
    name = rng.choice(tuple(_KINDS))
    base = base_call(rng, library)
    steps = list(_KINDS[name](rng, base))
    calls = [
        SceneCall(generation, number, phase, layer, _as_taken(call, phase), (), stream)
        for number, (generation, phase, of_step) in enumerate(steps)
        for layer, stream, call in of_step
    ]
    calls = [replace(one, launches=launches_of(one.call, gpu, version)) for one in calls]
    if not all(one.launches for one in calls):
        return None
    marks = "own" if records == "file" else rng.choice(MARKS)
    work = "experts" if rng.random() < 0.3 else ""
    kinds = (0,) * (1 + max(one.layer for one in calls))
    return Scene(
        library, version, gpu, name, kinds, marks, rng.choice(FORMATS), records, tuple(calls), work=work
    )


def _as_taken(call: AttentionCall, phase: str) -> AttentionCall:
    """torch's scaled_dot_product_attention is causal for the same number of keys as of queries alone."""
    return replace(call, causal=False) if call.library == "torch" and phase != "prefill" else call


def _sized(base: AttentionCall, queries: int, keys: int, **changes: object) -> AttentionCall:
    return replace(base, seqlen_q=queries, seqlen_k=keys, **changes)  # type: ignore[arg-type]


def _each(layers: int, call: AttentionCall, stream: int = _FIRST) -> list[tuple[int, int, AttentionCall]]:
    return [(layer, stream, call) for layer in range(layers)]


def _lengths(rng: Random) -> tuple[int, int, int]:
    """Layers, tokens of a prompt, tokens that are made."""
    prompt = rng.choice((rng.randint(1, 300), rng.randint(100, 1100), rng.randint(1000, 9000), 128, 1024))
    return rng.randint(2, 6), prompt, rng.randint(3, 14)


def _cross(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """An encoder, then a decoder each of whose layers attends to itself and to what was encoded."""
    layers, prompt, new = _lengths(rng)
    heard = rng.choice((1500, 77, rng.randint(1, 3000)))
    prompt = min(prompt, rng.choice((1, 4, 300)))
    seen = rng.choice((base, replace(base, num_heads=16, num_heads_k=16, head_dim=80)))
    encoder = _each(rng.randint(2, 6), _sized(seen, heard, heard, causal=False))
    for generation in range(rng.choice((1, 2))):
        yield generation, "encode", encoder
        for number in range(new):
            queries, keys = (prompt, prompt) if number == 0 else (1, prompt + number)
            both = (_sized(base, queries, keys), _sized(base, queries, heard, causal=False))
            phase = "decode" if number else "prefill"
            yield generation, phase, [(layer, _FIRST, call) for layer in range(layers) for call in both]


def _drafted(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """A smaller model makes candidates, which the model takes several at a time."""
    layers, keys, new = _lengths(rng)
    small = replace(base, num_heads=4, num_heads_k=4, head_dim=64)
    few = rng.randint(1, 2)
    yield 0, "prefill", _each(layers, _sized(base, keys, keys))
    yield 0, "draft", _each(few, _sized(small, keys, keys))
    for _ in range(new):
        candidates = rng.randint(1, 5)
        for number in range(candidates):
            yield 0, "draft", _each(few, _sized(small, 1, keys + 1 + number, causal=False))
        yield 0, "decode", _each(layers, _sized(base, candidates + 1, keys + candidates + 1))
        keys += rng.randint(1, candidates + 1)


def _in_pieces(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """A prompt in pieces, on top of what is cached, then its tokens; and the next turn of a conversation."""
    layers, prompt, new = _lengths(rng)
    keys = rng.choice((0, 0, 16, 512))
    piece = rng.choice((64, 256, 512, prompt))
    for generation in range(rng.choice((1, 2, 3))):
        left = prompt if generation == 0 else rng.randint(1, 60)
        while left:
            queries = min(piece, left)
            left, keys = left - queries, keys + queries
            yield generation, "prefill", _each(layers, _sized(base, queries, keys))
        for _ in range(new):
            keys += 1
            yield generation, "decode", _each(layers, _sized(base, 1, keys))


def _of_windows(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """Layers without attention, and such whose cache holds no more than a window, among others."""
    layers, prompt, new = _lengths(rng)
    every, window = rng.choice((1, 2, 4)), rng.choice((32, 128, 512, 1024))
    cached = rng.random() < 0.6
    for generation in range(rng.choice((1, 2))):
        for number in range(new + 1):
            queries, keys = (prompt, prompt) if number == 0 else (1, prompt + number)
            calls = []
            for layer in range(layers):
                held = keys if layer % 3 == 0 or not cached or number == 0 else min(keys, window)
                calls.append((layer * every + every - 1, _FIRST, _sized(base, queries, held)))
            yield generation, "decode" if number else "prefill", calls


def _shrinking(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """A batch whose sequences end one by one, or that is widened to beams."""
    layers, prompt, new = _lengths(rng)
    batch = rng.choice((4, 8, 16))
    yield 0, "prefill", _each(layers, _sized(base, prompt, prompt, batch=batch))
    batch *= rng.choice((1, 1, 4))
    for number in range(new):
        batch = max(1, batch - rng.choice((0, 0, 1, 2)))
        yield 0, "decode", _each(layers, _sized(base, 1, prompt + number + 1, batch=batch))


def _in_turn(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """Two batches of other lengths, a step of each in turn, on one stream or on two."""
    layers, prompt, new = _lengths(rng)
    other, streams = rng.randint(1, 5000), (_FIRST, rng.choice((_FIRST, _SECOND)))
    batches = (base.batch, rng.choice((1, 2, base.batch)))
    for number in range(new):
        for batch, length, stream in zip(batches, (prompt, other), streams, strict=True):
            sized = _sized(base, 1 if number else length, length + number, batch=batch)
            yield 0, "decode" if number else "prefill", _each(layers, sized, stream)


def _halves(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """Each layer's batch in two halves, on streams of their own, or a mixed step's prompts and the rest."""
    layers, prompt, new = _lengths(rng)
    keys, mixes = prompt, rng.random() < 0.5
    for number in range(new):
        phase = "decode" if number else "prefill"
        sized = _sized(base, 1 if number else keys, keys + number)
        calls = [(sized, _FIRST), (replace(sized, batch=base.batch + 1), _SECOND)]
        if mixes:
            calls = [(sized, _FIRST)]
            if number and rng.random() < 0.4:
                phase, fresh = "mixed", rng.randint(2, 900)
                calls.append((_sized(base, fresh, fresh), _FIRST))
        yield 0, phase, [(layer, stream, call) for layer in range(layers) for call, stream in calls]


def _warm_up(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """A server's first steps: the longest prompt, each batch size as its graph is captured, then requests."""
    layers, prompt, new = _lengths(rng)
    yield 0, "prefill", _each(layers, _sized(base, 2048, 2048))
    for batch in (32, 16, 8, 4, 2, 1):
        yield 0, "decode", _each(layers, _sized(base, 1, rng.choice((1, 4096)), batch=batch))
    yield 1, "prefill", _each(layers, _sized(base, prompt, prompt))
    for number in range(new):
        yield 1, "decode", _each(layers, _sized(base, 1, prompt + number + 1))


def _prompts(rng: Random, base: AttentionCall) -> Iterator[Step]:
    """Prompts alone, of other batches and lengths, as in scoring and embedding."""
    layers, _, new = _lengths(rng)
    phase, causal = rng.choice((("prefill", True), ("encode", False)))
    for number in range(new):
        length, batch = rng.randint(1, 3000), rng.choice((1, base.batch, 8))
        sized = _sized(base, length, length, batch=batch, causal=causal)
        yield number, phase, _each(layers, sized)


_KINDS: dict[str, Callable[[Random, AttentionCall], Iterator[Step]]] = {
    "cross-attention": _cross,
    "drafted": _drafted,
    "in pieces": _in_pieces,
    "windows": _of_windows,
    "shrinking": _shrinking,
    "in turn": _in_turn,
    "halves": _halves,
    "warm-up": _warm_up,
    "prompts": _prompts,
}
