"""What no observer could tell: a spoilt scene that some whole program shows just so.

The argument is a witness: calls for which the library's forward prediction is what the trace shows, beside
the neighbours that stayed. Nothing is read back, and the check is not asked. Where no witness is found within
the bounds searched, the spoil counts as one that can be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from attnprof.dispatch.vllm_rocm.dispatch import PREFILL
from attnprof.model import AttentionCall
from tests.spoil.libraries import SERVED
from tests.spoil.scenes import VERSIONS, Launches, Scene, SceneCall, launches_of
from tests.spoil.spoils import Spoil
from tests.spoil.witness import combines, lengths, plans, units, witness

_FEW_STEPS = 2
_UNRECORDED = "nothing shows that the profiler recorded the GPU already when the first call was made"
_MOST_QUERIES = 8  # of a speculative step
_TELL_NO_WINDOW = ("flash_attn_4", "flashinfer")
_PLAIN_NAMES = ("_fwd_kernel",)  # that other programs' kernels have, launched in any way
_TILE = 260  # more queries than any kernel takes per thread block


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
    if spoilt.at != (first,):
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
    if window := _window_of_requests(whole, spoilt, at):
        return window
    if window := _windows_of_all_others(whole, spoilt, at):
        return window
    if spoilt.kind.startswith("layer of") and all(whole.replays(one) for one in whole.calls):
        return "all steps replay a graph: no eager one shows that another layer attends"
    if scene.library in SERVED and _step_of_other_lengths(scene, at):
        return "requests come and go: all the step launches is what some lengths give each of its layers"
    if scene.library in _TELL_NO_WINDOW and (window := _window_of_a_layer(whole, spoilt, at)):
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


def _step_of_other_lengths(scene: Scene, at: set[int]) -> bool:
    """Whether of each touched step one layer's witness has lengths that give what all its layers launch."""
    for step in {scene.calls[one].step for one in at}:
        whole = [one for one in scene.calls if one.step == step]
        kinds = {(one.call, one.launches): one for one in whole if one.launches}
        found = (witness(call, launches, scene, scene.version) for call, launches in kinds)
        if not any(_gives_all(one, whole, scene) for one in found if one is not None):
            return False
    return bool(at)


def _gives_all(found: AttentionCall, step: list[SceneCall], scene: Scene) -> bool:
    """Whether a step of this call's lengths launches just what the step shows."""
    return all(
        launches_of(
            replace(
                one.call, batch=found.batch, seqlen_q=found.seqlen_q, seqlen_k=found.seqlen_k,
                seqlens_q=found.seqlens_q, seqlens_k=found.seqlens_k, total_q=found.total_q,
            ),
            scene.gpu, scene.version,
        ) == one.launches
        for one in step
    )  # fmt: skip


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


def _window_of_requests(whole: Scene, spoilt: Spoil, at: set[int]) -> str:
    """Of one call in a batch of requests: whether a window of its layer gives it, which hides keys in this
    step alone, or in all others, as a server's longest request comes or leaves."""
    if len(at) != 1 or whole.calls[next(iter(at))].call.entry not in ("varlen_fwd", "fwd_kvcache"):
        return ""
    place = next(iter(at))
    one, shown = whole.calls[place], spoilt.scene.calls
    layer = [n for n, other in enumerate(whole.calls) if other.layer == one.layer]
    beside = [x for x in whole.calls if x.step == one.step and x.layer != one.layer]
    held = one.call.seqlen_k
    for keys in (held // 512 * 256, held + 256, 2 * held):
        edge = min(keys, held)
        if keys < 1 or any(
            launches_of(replace(x.call, seqlen_k=keys), whole.gpu, whole.version) != x.launches
            for x in beside
        ):
            continue
        for right, causal in ((0, True), (0, False), (edge, False)):
            masked = [
                replace(
                    whole.calls[n].call, window=(edge, right), causal=causal,
                    seqlen_k=keys if n == place else whole.calls[n].call.seqlen_k,
                )
                for n in layer
            ]  # fmt: skip
            made = [launches_of(call, whole.gpu, whole.version) for call in masked]
            if made == [shown[n].launches for n in layer]:
                return "a window may hide keys of the longest request, which comes or leaves with one step"
    return ""


def _window_of_a_layer(whole: Scene, spoilt: Spoil, at: set[int]) -> str:
    """Of one call of a paged batch: whether a window of its layer gives it beside the other layers, whose
    names tell no window, for requests of other lengths, which are hidden in this step alone."""
    place = next(iter(at))
    one, shown = whole.calls[place], spoilt.scene.calls
    if len(at) != 1 or not one.call.seqlens_k or one.call.window != (-1, -1):
        return ""
    others = [n for n, x in enumerate(whole.calls) if x.layer == one.layer and x.step != one.step]
    longest = max((whole.calls[n].call.seqlen_k for n in others), default=1)
    known: dict[int, bool] = {}
    for call in _of_other_lengths(one.call):
        if launches_of(call, whole.gpu, whole.version) != one.launches:
            continue
        for share in (100, 125, 150, 200, 400):
            left = longest * share // 100
            hidden = launches_of(_windowed(call, left), whole.gpu, whole.version)
            if hidden != shown[place].launches:
                continue
            if left not in known:
                known[left] = all(
                    launches_of(_windowed(whole.calls[n].call, left), whole.gpu, whole.version)
                    == whole.calls[n].launches
                    for n in others
                )
            if known[left]:
                return "a window of its layer, of which no name tells, may hide keys in this step alone"
    return ""


def _windowed(call: AttentionCall, left: int) -> AttentionCall:
    return replace(call, window=(left, 0), causal=call.library != "flash_attn_4" and call.causal)


def _of_other_lengths(call: AttentionCall) -> Iterator[AttentionCall]:
    """The same step with keys longer or shorter by a share, all requests' or the longest one's."""
    longest = call.seqlens_k.index(max(call.seqlens_k))
    for percent in (100, *range(20, 400, 10), *range(400, 2000, 100)):
        keys = tuple(
            max(have * percent // 100, new) for have, new in zip(call.seqlens_k, call.seqlens_q, strict=True)
        )
        one = tuple(keys[n] if n == longest else have for n, have in enumerate(call.seqlens_k))
        for told in (keys, one):
            yield replace(call, seqlens_k=told, seqlen_k=max(told))


def _windows_of_all_others(whole: Scene, spoilt: Spoil, at: set[int]) -> str:
    """Of one call in a speculative step: whether all other layers have a window that hides nothing, and the
    step one query, whose causal mask is none."""
    if len(at) != 1 or whole.shape != "speculative":
        return ""
    place = next(iter(at))
    step = whole.calls[place].step
    for each in (False, True):  # a KV head for each head, as no step shows otherwise
        made = []
        for one in whole.calls:
            call = one.call
            if each:
                call = replace(call, num_heads_k=call.num_heads)
            if one.layer != whole.calls[place].layer:
                call = replace(call, window=(2 * call.seqlen_k, 0))
            if one.step == step:
                new, total = call.seqlen_knew and 1, call.total_q and call.batch
                call = replace(call, seqlen_q=1, seqlen_knew=new, total_q=total)
            made.append(launches_of(call, whole.gpu, whole.version))
        if made == [one.launches for one in spoilt.scene.calls]:
            return "one query's causal mask is none, and a window of all other layers still is one"
    return ""


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


def _others_may_be_plain(whole: Launches, spoilt: Launches) -> bool:
    """Whether only launches differ whose names other programs' kernels have, and one that is new does."""
    named, others = (
        [tuple(one for one in each if (one.kernel in _PLAIN_NAMES) is plain) for each in (whole, spoilt)]
        for plain in (True, False)
    )
    return others[0] == others[1] and bool(set(named[1]) - set(named[0]))


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
    groups = {(scene.calls[at].call, _with_what_is_before(whole, scene, at)) for at in spoilt.at}
    made = {one.launches for one in whole.calls}
    made |= {one.launches[:1] for one in whole.calls if one.launches and plans(one.launches[0])}
    asked = [(call, unit) for call, launches in groups for unit in _units(launches, scene)]
    for version in versions:
        if all(unit in made or witness(call, unit, scene, version) for call, unit in asked):
            return version
    return ""


def _units(launches: Launches, scene: Scene) -> list[Launches]:
    """As calls; unmarked, prompts may be another program's, with nothing after them."""
    found = units(launches)
    if scene.marks != "none":
        return found
    split = [(one[:1], one[1:]) if len(one) > 1 and one[0].kernel == PREFILL else (one,) for one in found]
    return [part for parts in split for part in parts]


def _with_what_is_before(whole: Scene, scene: Scene, at: int) -> Launches:
    """A call's launches; unmarked ones that begin with a combine kernel are of the main kernel before it.

    The first of a trace may be of a call that began earlier: then it is left out.
    """
    launches = scene.calls[at].launches
    if scene.marks != "none" or not launches or not combines(launches[0]):
        return launches
    before = [one.launches for one in scene.calls[:at] if one.launches]
    if before:
        return (*units(before[-1])[-1], *launches)
    return launches[1:] if any(launches[0] == one.launches[-1] for one in whole.calls) else launches


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
            fits = any(_makes(scene, one, version, keys, one.call.seqlen_q) for keys in lengths(one.call))
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


# without marks


def _bare(whole: Scene, spoilt: Spoil) -> str:
    """Nothing says how many calls there were: each must be one that the library makes for somebody."""
    scene = spoilt.scene
    other = spoilt.kind == "call of another version" and scene.library == "vllm_flash_attn"
    if other or spoilt.kind.split(" of ")[-1] in (
        "efficient",
        "cudnn",
        "math",
        "torch",
        "flash_attn",
        "flash_attn_3",
    ):
        return "no range tells which layer a call belongs to, or whether one is missing"
    if all(_others_may_be_plain(whole.calls[at].launches, scene.calls[at].launches) for at in spoilt.at):
        return "other programs' kernels have its name: no range tells whose a launch is"
    version = _each_by_itself(whole, spoilt)
    return f"each is what {scene.library} {version} launches for some call" if version else ""
