"""Whole scenes: what a program launches step by step and layer by layer, by the libraries' own rules.

Truth is the forward prediction alone: nothing here reads a launch back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from attnprof.dispatch import predict
from attnprof.dispatch.libraries import rules_known
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Dtype, Entry, Gpu, KernelLaunch, Library
from tests.spoil import flashinfer_scenes, triton_scenes
from tests.spoil.libraries import SERVED
from tests.spoil.records import is_recorded
from tests.spoil.served import Draw

Launches = tuple[KernelLaunch, ...]

VERSIONS: dict[Library, tuple[str, ...]] = {
    "flash_attn": ("2.3.4", "2.4.2", "2.5.6", "2.5.9.post1", "2.6.3", "2.7.2", "2.7.4.post1", "2.8.3"),
    "torch": ("2.3.1", "2.5.1", "2.6.0", "2.8.0", "2.10.0", "2.13.0", "2.15.0"),
    "flash_attn_3": ("2.7.4", "2.8.3", "3.0.0"),
    "vllm_flash_attn": ("fa2", "fa3"),
    **triton_scenes.VERSIONS,
    **flashinfer_scenes.VERSIONS,
    **{library: family.versions for library, family in SERVED.items()},
}
_BESIDE: dict[Library, str] = {"flash_attn_4": "vllm-0.33.0", "vllm_flash_attn": "auto"}
_EACH_SERVER = 8  # seeds: of so many, one is each server's
_SERVERS: dict[int, Draw] = {4: triton_scenes.draw, 7: flashinfer_scenes.draw}
_LIBRARIES: tuple[Library, ...] = (
    *("flash_attn",) * 5,
    *("torch",) * 2,
    *("flash_attn_3",) * 2,
    "vllm_flash_attn",
)
PROGRAMS = (*dict.fromkeys(_LIBRARIES), "flash_attn_4", "flex_attention")  # that generate, beside servers
GPUS = ("a100", "h100", "h20", "l40s", "4090", "a10g", "3090", "h100-pcie")
HOPPER = ("h100", "h20", "h100-pcie", "h200")
_GPUS_OF: dict[Library, tuple[str, ...]] = {
    "flash_attn_3": HOPPER,
    "flash_attn_4": ("b200", "b300", "h100", "a100", "5090"),
    "flex_attention": ("a100", "h100", "b200", "4090"),
}
_HEADS = ((28, 4), (32, 8), (16, 16), (8, 8), (4, 1), (40, 8), (12, 12), (64, 8))
_HEAD_DIMS = (128, 128, 64, 64, 96, 256, 192, 80, 32)
SHAPES = ("generation", "generation", "generation", "speculative", "serving")
MARKS = ("own", "foreign", "none")
FORMATS = ("torch", "nsys")


@dataclass(frozen=True)
class SceneCall:
    """One attention call and what it launched, on which stream. ``generation`` counts prompts.

    ``planning``: metadata for all calls of the step, launched before; it attends to nothing and is whole.
    """

    generation: int
    step: int
    phase: str
    layer: int
    call: AttentionCall
    launches: Launches
    stream: int = 7
    planning: Launches = ()


@dataclass(frozen=True)
class Scene:
    """A program's attention calls in order, and how its trace tells of them.

    ``kinds`` is each layer's kind: layers of one kind make the same call in one step. ``marks``: the ranges
    around steps and layers ("own", "foreign", "none").  ``records``: "none", "file" (calls.jsonl) or
    "operators" (in the torch trace).  ``graphs``: decode steps replay a CUDA graph, recorded by "nodes" or
    "whole".  ``others``: what each further process of the trace launched, on a GPU of its own.  ``cut``: how
    many of the first and last kernels were not recorded.  ``work``: what runs between the calls, "" for the
    same always, or "experts" that are chosen anew.
    """

    library: Library
    version: str
    gpu: Gpu
    shape: str
    kinds: tuple[int, ...]
    marks: str
    format: str
    records: str
    calls: tuple[SceneCall, ...]
    graphs: str = ""
    others: tuple[tuple[SceneCall, ...], ...] = ()
    cut: tuple[int, int] = (0, 0)
    work: str = ""

    def replays(self, one: SceneCall) -> bool:
        """Whether the call is part of a graph's replay."""
        return bool(self.graphs) and one.phase == "decode"

    def shows(self, one: SceneCall) -> bool:
        """Whether the trace shows the call's kernels."""
        return not (self.graphs == "whole" and self.replays(one))

    def with_launches(self, changed: dict[int, Launches]) -> Scene:
        """The scene with other launches of some calls, by their place."""
        calls = tuple(
            replace(one, launches=changed[at]) if at in changed else one for at, one in enumerate(self.calls)
        )
        return replace(self, calls=calls)

    def line(self) -> str:
        first = self.calls[0].call
        return (
            f"{self.library} {self.version} on {self.gpu.name}, {self.shape}, layers of kinds {self.kinds},"
            f" batch {first.batch}, {first.num_heads}/{first.num_heads_k} x {first.head_dim}"
            f" {first.dtype}, {self.calls[-1].call.entry}, {self.format}, marks {self.marks},"
            f" records {self.records}"
            + (f", graphs by {self.graphs}" if self.graphs else "")
            + (f", {1 + len(self.others)} processes" if self.others else "")
            + (f", cut by {self.cut}" if any(self.cut) else "")
            + (f", {self.work} between" if self.work else "")
        )


@lru_cache(maxsize=200_000)
def launches_of(call: AttentionCall, gpu: Gpu, version: str) -> Launches:
    """What the library launches to attend; nothing where it refuses."""
    return tuple(one for one in _all_launches(call, gpu, version) if not _plans_a_step(one))


@lru_cache(maxsize=200_000)
def _all_launches(call: AttentionCall, gpu: Gpu, version: str) -> Launches:
    if not rules_known(call.library, version):  # of the library that attends to a server's prompts
        version = _BESIDE[call.library]
    try:
        return predict(call, gpu, version).launches
    except UsageError:
        return ()


def _plans_a_step(launch: KernelLaunch) -> bool:
    return parse_kernel_name(launch.kernel).role == "metadata"


def make_scene(
    seed: int, *, records: Sequence[str] = ("none",), shapes: Sequence[str] = SHAPES, library: Library = ""
) -> Scene:
    """The scene of a seed: a draw whose calls the library takes, each with at least one launch."""
    rng = Random(seed)
    while library:
        served = library in SERVED and (library not in PROGRAMS or rng.random() < 0.5)
        scene = (
            _of_server(rng, SERVED[library].draw, records) if served else _draw(rng, records, shapes, library)
        )
        if scene is not None and scene.library == library and all(one.launches for one in scene.calls):
            return scene
    if tuple(records) == ("none",) and "serving" in shapes and seed % _EACH_SERVER in _SERVERS:
        return _of_server(rng, _SERVERS[seed % _EACH_SERVER])
    while True:
        scene = _draw(rng, records, shapes)
        if scene is not None:
            return scene


def _draw(rng: Random, records: Sequence[str], shapes: Sequence[str], library: Library = "") -> Scene | None:
    library = library or rng.choice(_LIBRARIES)
    version = rng.choice(VERSIONS[library])
    gpu = gpu_by_name(rng.choice(HOPPER if version == "fa3" else _GPUS_OF.get(library, GPUS)))
    if rng.random() < 0.2:
        gpu = make_gpu("NVIDIA Made Up", gpu.sm_major, gpu.sm_minor, rng.choice((20, 46, 100, 114, 144)))
    shape = "serving" if library == "vllm_flash_attn" else rng.choice(tuple(shapes))
    told = rng.choice(tuple(records))
    kind = rng.choice(FORMATS) if told != "operators" else "torch"
    if told == "operators":  # which flash_attn registers from 2.7 on, and torch always
        library = rng.choice(("flash_attn", "torch"))
        version = rng.choice([one for one in VERSIONS[library] if library == "torch" or one >= "2.7"])
        shape = "generation"
    marks = "own" if told == "file" else rng.choice(MARKS) if told == "none" else "none"
    layers = rng.randint(2, 6)
    kinds = tuple(rng.choice(((0,) * layers, (0,) * layers, tuple(i % 2 for i in range(layers)))))
    base = base_call(rng, library)
    window = rng.choice((-1, 16, 64, 200)) if max(kinds) else -1
    takes_window = library != "torch"
    steps = list(_steps(rng, base, shape))
    if told == "operators" and steps[-1][3].entry != "fwd":
        return None
    calls: list[SceneCall] = []
    for generation, step, phase, call in steps:
        of_kind = [call]
        if max(kinds):
            other = replace(call, window=(window, window)) if window >= 0 and takes_window else call
            if not takes_window or window < 0:
                other = replace(call, num_heads=call.num_heads * 2, num_heads_k=call.num_heads_k * 2)
            of_kind.append(other)
        if library == "torch" and phase == "decode":
            of_kind = [replace(one, causal=False) for one in of_kind]
        told_launches = [launches_of(one, gpu, version) for one in of_kind]
        if not all(told_launches):
            return None
        calls += [
            SceneCall(generation, step, phase, layer, of_kind[number], told_launches[number])
            for layer, number in enumerate(kinds)
        ]
    scene = Scene(library, version, gpu, shape, kinds, marks, kind, told, tuple(calls))
    return _in_processes(_in_graphs(scene, rng), rng) if told == "none" else scene


def _in_graphs(scene: Scene, rng: Random) -> Scene:
    """The scene with its decode steps in a graph, where each launches the same."""
    launched: dict[int, set[Launches]] = {}
    for one in scene.calls:
        if one.phase == "decode":
            launched.setdefault(one.layer, set()).add(one.launches)
    if any(len(kinds) > 1 for kinds in launched.values()) or rng.random() < 0.3:
        return scene
    return replace(
        scene, graphs=rng.choice(("nodes", "nodes", "whole")) if scene.format == "nsys" else "nodes"
    )


def _in_processes(scene: Scene, rng: Random) -> Scene:
    """The scene as one process of several."""
    if scene.format != "nsys" or rng.random() < 0.8:
        return scene
    return replace(scene, others=(scene.calls,) * rng.randint(1, 3))


def _of_server(rng: Random, draw: Draw, records: Sequence[str] = ("none",)) -> Scene:
    """A server's, of layers that are all alike or of two kinds in turn."""
    library, version, gpu, steps = draw(rng)
    layers = rng.randint(2, 6)
    of_kinds = [call if isinstance(call, tuple) else (call,) for *_, call in steps]
    kinds = tuple(layer % len(of_kinds[0]) for layer in range(layers))
    calls = []
    for (generation, step, phase, _), of_kind in zip(steps, of_kinds, strict=True):
        told = [launches_of(call, gpu, version) for call in of_kind]
        planning = tuple(one for one in _all_launches(of_kind[0], gpu, version) if _plans_a_step(one))
        calls += [
            SceneCall(
                generation, step, phase, layer, of_kind[kind], told[kind], planning=() if layer else planning
            )
            for layer, kind in enumerate(kinds)
        ]
    marks = rng.choice(MARKS)
    format = "torch" if gpu.vendor == "amd" else rng.choice(FORMATS)
    scene = Scene(library, version, gpu, "serving", kinds, marks, format, "none", tuple(calls))
    if tuple(records) == ("none",) and library not in SERVED:
        return scene
    asked = [one for one in records if one != "operators"] or ["none"]
    told = all(is_recorded(one.call) and one.call.library == library for one in calls)
    if rng.choice(asked) == "file" and told:
        return replace(scene, records="file", marks="own")
    captured = all(one.call.cuda_graph for one in calls if one.phase == "decode")
    return _in_graphs(scene, rng) if captured else scene


def base_call(rng: Random, library: Library) -> AttentionCall:
    heads, heads_k = rng.choice(_HEADS)
    if library == "torch":
        heads_k = heads
    dtype: Dtype = rng.choice(("bf16", "fp16"))
    batch = rng.choice((1, 1, 1, 2, 4, 8))
    call = AttentionCall(
        library, "fwd", batch, 1, 1, heads, heads_k, rng.choice(_HEAD_DIMS), dtype=dtype, causal=True
    )
    return replace(call, num_splits=rng.choice((-1, -1, 0))) if library == "flash_attn_4" else call


def _steps(rng: Random, base: AttentionCall, shape: str) -> Iterator[tuple[int, int, str, AttentionCall]]:
    """(generation, step, phase, the call of a layer of the first kind)."""
    prompt = rng.choice((rng.randint(1, 300), rng.randint(100, 1100), rng.randint(1000, 9000), 128, 1024))
    if base.library == "flex_attention":
        prompt = min(prompt, 127)  # longer ones take the main kernel, whose tiles are found by measuring
    decode = rng.randint(3, 9)
    if shape == "serving":
        yield from _serving(rng, base, prompt, decode)
        return
    entry: Entry = (
        "fwd" if base.library == "torch" else rng.choice(("fwd", "fwd", "fwd_kvcache", "varlen_fwd"))
    )
    if base.library == "flash_attn_3":
        entry = "fwd_kvcache"
    if base.library in SERVED:
        entry = "varlen_fwd" if entry == "varlen_fwd" and base.library == "flash_attn_4" else "fwd"
    generations = rng.choice((1, 1, 2))
    step = 0
    capacity = -(-(prompt + 64) // 256) * 256
    paged = rng.random() < 0.3 and entry == "fwd_kvcache"
    for generation in range(generations):
        keys = prompt
        yield (
            generation,
            step,
            "prefill",
            _call(base, "varlen_fwd" if entry == "varlen_fwd" else "fwd", keys, keys),
        )
        for _ in range(decode):
            queries = rng.randint(2, 5) if shape == "speculative" and rng.random() < 0.7 else 1
            keys += queries if shape != "speculative" else rng.randint(1, queries)
            step += 1
            if entry == "fwd_kvcache":
                call = replace(
                    base, entry=entry, seqlen_q=queries, seqlen_k=capacity, cache_seqlens=True,
                    seqlen_knew=None if paged else queries, page_block_size=256 if paged else None,
                )  # fmt: skip
            else:
                call = _call(base, entry, queries, keys)
            yield generation, step, "decode", call
        step += 1


def _call(base: AttentionCall, entry: Entry, queries: int, keys: int) -> AttentionCall:
    total = base.batch * queries if entry == "varlen_fwd" else None
    return replace(base, entry=entry, seqlen_q=queries, seqlen_k=keys, total_q=total)


def _serving(
    rng: Random, base: AttentionCall, prompt: int, decode: int
) -> Iterator[tuple[int, int, str, AttentionCall]]:
    """Steps of a server: requests come and go, so batch and longest keys change from step to step."""
    page = 256 if base.library != "vllm_flash_attn" else rng.choice((16, 64))
    generation = 0
    for step in range(decode + 2):
        fresh = step == 0 or rng.random() < 0.2
        batch = rng.choice((base.batch, base.batch, base.batch + 1, base.batch * 2))
        keys = max(1, prompt + rng.randint(-prompt // 3, prompt // 3))
        queries = rng.randint(2, keys + 1) if fresh else 1
        keys = max(keys, queries)
        generation += fresh and step > 0
        total = batch * queries - (rng.randint(0, queries - 1) if batch > 1 else 0)
        call = replace(
            base, entry="varlen_fwd", batch=batch, seqlen_q=queries, seqlen_k=keys, total_q=total,
            page_block_size=page,
        )  # fmt: skip
        if base.library in ("torch", "flash_attn_3"):
            call = replace(call, page_block_size=None)
        yield generation, step, "prefill" if fresh else "decode", call
