"""What no observer could tell: a spoilt scene that some whole program shows just so.

The argument is a witness: calls for which the library's forward prediction is what the trace shows, beside
the neighbours that stayed. Nothing is read back, and the check is not asked. Where no witness is found within
the bounds searched, the spoil counts as one that can be told.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.spoil import flashinfer_scenes, triton_scenes
from tests.spoil.scenes import VERSIONS, Launches, Scene, SceneCall, launches_of
from tests.spoil.spoils import Spoil

_FEW_STEPS = 2
_UNRECORDED = "nothing shows that the profiler recorded the GPU already when the first call was made"
_MOST_BASES = 6  # other calls of a scene, from which a witness is looked for
# each bucket's own, and one below it
_HEAD_DIMS = (24, 32, 56, 64, 72, 80, 96, 120, 128, 152, 160, 184, 192, 216, 224, 248, 256)
_MOST_QUERIES = 8  # of a speculative step
_TILE = 260  # more queries than any kernel takes per thread block
# (head dim, block_m) of FlashAttention-2, (block_m, block_n, head dim) of 3, after the cluster's shape
_TILE_NAMED = re.compile(
    r"traits<(\d+), (\d+)|cute::C<1> >, cute::tuple<cute::C<(\d+)>, cute::C<(\d+)>, cute::C<(\d+)> >"
)
_FLAGS: tuple[dict[str, object], ...] = (
    {"causal": True}, {"causal": False}, {"window": (63, 63)}, {"window": (-1, -1)}, {"alibi": True},
    {"softcap": 30.0}, {"dropout_p": 0.1}, {"dropout_p": 0.1, "return_softmax": True}, {"seqlen_knew": 1},
    {"seqlen_knew": None}, {"dtype": "bf16"}, {"dtype": "fp16"}, {"cache_batch_idx": True},
    {"scheduler_metadata": True},
)  # fmt: skip


def why_nobody_can_tell(whole: Scene, spoilt: Spoil) -> str:
    """The witness in words; "" where none was found."""
    scene = spoilt.scene
    if scene.records != "none":
        return _by_arguments(whole, spoilt)
    if _before_recording(whole, spoilt):
        return _UNRECORDED
    if scene.marks == "none":
        return _bare(whole, spoilt)
    return _marked(whole, spoilt)


def _before_recording(whole: Scene, spoilt: Spoil) -> bool:
    """Whether it shows what a whole trace would whose profiler began with the GPU inside or after the first
    call: nothing of it, or the last of its kernels; without ranges, of another call that the scene has."""
    first = next(at for at, one in enumerate(whole.calls) if one.launches)
    if spoilt.at != (first,) or whole.replays(whole.calls[first]):
        return False
    left = spoilt.scene.calls[first].launches
    if whole.marks != "none" or not left:
        return left == whole.calls[first].launches[len(whole.calls[first].launches) - len(left) :]
    return any(left == one.launches[-len(left) :] != one.launches for one in whole.calls)


def _by_arguments(whole: Scene, spoilt: Spoil) -> str:
    """With its arguments each call has one prediction; only of operators is the version not recorded."""
    scene = spoilt.scene
    if scene.records == "operators":
        first = next(at for at, one in enumerate(whole.calls) if one.launches)
        if spoilt.at == (first,) and not scene.calls[first].launches:
            return _UNRECORDED
        for version in VERSIONS[scene.library]:
            if all(launches_of(one.call, scene.gpu, version) == one.launches for one in scene.calls):
                return f"{scene.library} {version} launches all of it for the arguments recorded"
    return ""


# with steps and layers


def _marked(whole: Scene, spoilt: Spoil) -> str:
    scene = spoilt.scene
    at = {one for one in spoilt.at if scene.shows(scene.calls[one])}
    touched = {(scene.calls[one].step, scene.calls[one].layer) for one in at}
    layers = {layer for _, layer in touched}
    alone = len(layers) == 1 and scene.kinds.count(scene.kinds[next(iter(layers))]) == 1
    shown = {one.step for one in scene.calls if scene.shows(one)}
    if len(shown) <= _FEW_STEPS and _each_by_itself(whole, spoilt):
        return "in so few steps nothing says which layers are alike: each is what some call launches"
    if window := _window_at_the_end(whole, spoilt, at):
        return window
    for step, layer in touched:
        likes = [
            one
            for other, one in enumerate(scene.calls)
            if other not in at and one.step == step and one.layer != layer
            and scene.kinds[one.layer] == scene.kinds[layer]
        ]  # fmt: skip
        if likes:
            return ""  # what its like launched in the same step
    if spoilt.kind.startswith("layer of") and alone:
        return "a layer that is alone of its kind may be of any kind"
    if alone and (other := _another_layer(whole, scene, next(iter(layers)))):
        return other
    if any(not scene.calls[one].launches for one in at):
        return ""  # the layer's other steps have attention
    if scene.shape == "serving" and spoilt.kind.startswith("step"):
        return "requests come and go: any step may follow any other"
    for version in VERSIONS[scene.library]:
        if all(_lengths_fit(scene, series, version) for series in _series(scene)):
            return f"{scene.library} {version} launches just this for growing keys"
    return ""


def _window_at_the_end(whole: Scene, spoilt: Spoil, at: set[int]) -> str:
    """Of one call in the last step of a generation: whether a window of its layer gives it."""
    if len(at) != 1:
        return ""
    (one,) = at
    call = whole.calls[one].call
    last = all(other.generation != whole.calls[one].generation or other.step <= whole.calls[one].step
               for other in whole.calls)  # fmt: skip
    windowed = replace(call, window=(max(0, call.seqlen_k - call.seqlen_q - 1), 0))
    makes = launches_of(windowed, whole.gpu, whole.version) == spoilt.scene.calls[one].launches
    return "a window may begin to hide keys with the last step" if last and makes else ""


def _another_layer(whole: Scene, scene: Scene, layer: int) -> str:
    """A mask with which this one layer, alone of its kind, launches all it shows for its lengths."""
    mine = [(one.call, scene.calls[at].launches) for at, one in enumerate(whole.calls) if one.layer == layer]
    edges = {keys + by for keys in {call.seqlen_k for call, _ in mine} for by in (-1, 0, 1)}
    windows = [(-1, -1), *((left, right) for left in sorted(edges) for right in (left, 0))]
    for window in windows:
        for causal in (True, False):
            as_masked = [(replace(call, window=window, causal=causal), shown) for call, shown in mine]
            if all(launches_of(call, scene.gpu, scene.version) == shown for call, shown in as_masked):
                return "a layer alone of its kind may have another mask, with which it launches all of this"
    return ""


def _each_by_itself(whole: Scene, spoilt: Spoil) -> str:
    """The version for which each spoilt call is one that the library makes for somebody; "" where none is."""
    scene = spoilt.scene
    versions = [
        version
        for version in VERSIONS[scene.library]
        if all(
            launches_of(one.call, scene.gpu, version) == one.launches
            for at, one in enumerate(whole.calls)
            if at not in spoilt.at
        )
    ]
    groups = {(scene.calls[at].call, scene.calls[at].launches) for at in spoilt.at}
    made = {one.launches for one in whole.calls}
    made |= {one.launches[:1] for one in whole.calls if one.launches and _plans(one.launches[0])}
    units = [(call, unit) for call, launches in groups for unit in _units(launches)]
    for version in versions:
        if all(unit in made or _witness(call, unit, scene, version) for call, unit in units):
            return version
    return ""


def _series(scene: Scene) -> list[list[SceneCall]]:
    """Per generation and kind of layer, its calls in order, one a step."""
    groups: dict[tuple[int, int], dict[int, SceneCall]] = {}
    for one in filter(scene.shows, scene.calls):
        steps = groups.setdefault((one.generation, scene.kinds[one.layer]), {})
        held = steps.setdefault(one.step, one)
        if held.launches != one.launches:
            return [[replace(one, launches=())]]  # two of a kind differ: nothing launches nothing
    return [list(steps.values()) for steps in groups.values()]


def _lengths_fit(scene: Scene, series: list[SceneCall], version: str) -> bool:
    """Whether keys that grow as the scene's shape has it give all the launches of a series."""
    possible: set[int] | None = None
    for one in series:
        if not one.launches:
            return False
        if scene.shape == "serving":
            fits = any(_makes(scene, one, version, keys, one.call.seqlen_q) for keys in _lengths(one.call))
        elif one.phase == "prefill":
            near = range(max(1, one.call.seqlen_q - _TILE), one.call.seqlen_q + _TILE)
            possible = {n for n in near if _makes(scene, one, version, n, n)}
            fits = bool(possible)
        elif one.call.entry == "fwd_kvcache":
            fits = any(_makes(scene, one, version, one.call.seqlen_k, q) for q in _queries(scene, one))
        else:
            grown = {
                (n + by, q)
                for n in possible or ()
                for q in _queries(scene, one)
                for by in (range(1, q + 1) if scene.shape == "speculative" else (q,))
            }
            possible = {n for n, q in grown if _makes(scene, one, version, n, q)}
            fits = bool(possible)
        if not fits:
            return False
    return True


def _queries(scene: Scene, one: SceneCall) -> Iterable[int]:
    return range(1, _MOST_QUERIES + 1) if scene.shape == "speculative" else (one.call.seqlen_q,)


def _makes(scene: Scene, one: SceneCall, version: str, keys: int, queries: int) -> bool:
    call = one.call
    total = call.total_q if call.total_q is None or queries == call.seqlen_q else call.batch * queries
    new = None if call.seqlen_knew is None else queries
    call = replace(call, seqlen_k=keys, seqlen_q=queries, total_q=total, seqlen_knew=new)
    return launches_of(call, scene.gpu, version) == one.launches


def _lengths(call: AttentionCall) -> Iterator[int]:
    """KV lengths up to twice the call's: the last key of 64 and the one before it."""
    for edge in range(64, 2 * call.seqlen_k + 512, 64):
        yield from (edge, edge - 1)


# without marks


def _bare(whole: Scene, spoilt: Spoil) -> str:
    """Nothing says how many calls there were: each must be one that the library makes for somebody."""
    scene = spoilt.scene
    if spoilt.kind.split(" of ")[-1] in ("efficient", "cudnn", "math", "torch", "flash_attn", "flash_attn_3"):
        return "no range tells which layer a call belongs to, or whether one is missing"
    version = _each_by_itself(whole, spoilt)
    return f"each is what {scene.library} {version} launches for some call" if version else ""


def _combines(launch: KernelLaunch) -> bool:
    return any(part in launch.kernel.lower() for part in ("combine", "reduce_segments", "_stage2", "merge"))


def _units(launches: Launches) -> list[Launches]:
    """The launches as calls: a main kernel, the one before that plans, the one after that combines."""
    units: list[list[KernelLaunch]] = []
    for launch in launches:
        begins = not _combines(launch)
        planned = bool(units) and _plans(units[-1][-1])
        if not units or (begins and not planned) or _plans(launch):
            units.append([])
        units[-1].append(launch)
    return [tuple(unit) for unit in units]


def _witness(call: AttentionCall, unit: Launches, scene: Scene, version: str) -> AttentionCall | None:
    """A call near ``call`` that launches the unit: other sizes, and up to two other flags."""
    if scene.library in triton_scenes.VERSIONS:
        return triton_scenes.witness(unit, scene.gpu)
    if scene.library in flashinfer_scenes.VERSIONS:
        return flashinfer_scenes.witness(unit, scene.gpu, call)
    main = next((one for one in unit if _is_main(one)), None)
    if main is None:
        return None
    bases = dict.fromkeys((call, *(one.call for one in scene.calls)))
    return next(
        (
            found
            for base in tuple(bases)[: 1 + _MOST_BASES]
            for one in _by_entry(base)
            if (found := _near(one, unit, main, scene, version))
        ),
        None,
    )


def _by_entry(call: AttentionCall) -> Iterator[AttentionCall]:
    """The call, and as another entry of its library takes it."""
    yield call
    if call.entry != "fwd" and call.library != "vllm_flash_attn":
        plain = replace(call, total_q=None, page_block_size=None, seqlen_knew=None, cache_seqlens=False)
        yield replace(plain, entry="fwd")
    if call.library == "flash_attn_3" and call.entry == "varlen_fwd":
        yield replace(call, entry="fwd_kvcache", cache_seqlens=True)


def _plans(launch: KernelLaunch) -> bool:
    """Whether it plans a packed batch, as get_scheduler_metadata launches it alone."""
    return "prepare_varlen" in launch.kernel


def _is_main(launch: KernelLaunch) -> bool:
    return not _plans(launch) and not _combines(launch)


def _near(
    call: AttentionCall, unit: Launches, main: KernelLaunch, scene: Scene, version: str
) -> AttentionCall | None:
    if main.kernel not in _names(call, scene, version):
        return None
    for flagged in _flagged(call):
        for sized in _sizes(flagged, main):
            for found in _of_lengths(sized, main, scene, version):
                if launches_of(found, scene.gpu, version) == unit:
                    return found
    return None


def _flagged(call: AttentionCall) -> Iterator[AttentionCall]:
    """The call, and with up to two other flags."""
    planned = call.entry == "fwd_kvcache" or call.library == "vllm_flash_attn"  # what takes a plan
    flags = [flag for flag in _FLAGS if planned or "scheduler_metadata" not in flag]
    once = [call, *(replace(call, **flag) for flag in flags)]  # type: ignore[arg-type]
    twice = [replace(one, **flag) for one in once for flag in flags]  # type: ignore[arg-type]
    yield from dict.fromkeys((*once, *twice))


@lru_cache(maxsize=4096)
def _names_of(call: AttentionCall, gpu: Gpu, version: str) -> frozenset[str]:
    """The main kernels that calls with the flags and of every head dim near the call's launch."""
    found = set()
    for flagged in _flagged(call):
        for head_dim in _HEAD_DIMS:
            for seqlen_q, seqlen_k in itertools.product(
                (1, 127, 128, 384), (64, 127, 128, 256, 384, 4608, 1 << 17)
            ):
                total = None if call.total_q is None else seqlen_q
                one = replace(flagged, head_dim=head_dim, seqlen_q=seqlen_q, seqlen_k=seqlen_k, total_q=total)
                found |= {launch.kernel for launch in launches_of(one, gpu, version)}
                full = replace(one, batch=512, total_q=None if total is None else 512 * seqlen_q)
                found |= {launch.kernel for launch in launches_of(full, gpu, version)}
    return frozenset(found)


def _names(call: AttentionCall, scene: Scene, version: str) -> frozenset[str]:
    plain = replace(call, batch=1, num_heads=call.num_heads // call.num_heads_k, num_heads_k=1)
    plain = replace(plain, seqlen_q=1, seqlen_k=1, total_q=None if call.total_q is None else 1)
    return _names_of(replace(plain, head_dim=64), scene.gpu, version)


def _sizes(call: AttentionCall, main: KernelLaunch) -> Iterator[AttentionCall]:
    """Calls of such a grid: batch, heads, and head dims of the kernel's bucket."""
    named = _TILE_NAMED.search(main.kernel)
    bucket = int(named[1] or named[5]) if named else call.head_dim
    groups = call.num_heads // call.num_heads_k
    _, y, z = main.grid
    shapes = {
        (call.batch, call.num_heads_k),
        (y, z),
        (y, max(1, z // groups)),
        (max(1, z // call.num_heads_k), call.num_heads_k),
    }
    shapes |= {(1, z), (z, 1)}
    shapes |= {(call.batch, max(1, z // call.batch)), (call.batch, max(1, z // call.batch // groups))}
    for head_dim in dict.fromkeys((call.head_dim if call.head_dim <= bucket else bucket, bucket, bucket - 8)):
        for batch, heads_k in sorted(shapes):
            for heads in dict.fromkeys(heads_k * count for count in (1, groups, 2, 4, 8, 16)):
                yield replace(call, head_dim=head_dim, batch=batch, num_heads=heads, num_heads_k=heads_k)


def _of_lengths(
    call: AttentionCall, main: KernelLaunch, scene: Scene, version: str
) -> Iterator[AttentionCall]:
    """The call with other lengths, where one of them has the main kernel's name at all."""
    named = _TILE_NAMED.search(main.kernel)
    block_m = int(named[2] or named[3]) if named else 64
    rows = main.grid[0]
    queries = dict.fromkeys((call.seqlen_q, rows * block_m, rows * block_m - 1, 1))
    for seqlen_q in queries:
        if seqlen_q < 1:
            continue
        total = None if call.total_q is None else call.batch * seqlen_q
        asked = replace(call, seqlen_q=seqlen_q, total_q=total)
        probes = (call.seqlen_k, 128, 129, 4096, 4097, 1 << 17, (1 << 17) + 1)
        names = {
            one.kernel for k in probes for one in launches_of(replace(asked, seqlen_k=k), scene.gpu, version)
        }
        if main.kernel in names:
            lengths = (call.seqlen_k, seqlen_q, *_lengths(call))
            yield from (replace(asked, seqlen_k=keys) for keys in lengths)
