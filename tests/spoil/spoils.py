"""One thing spoilt at a time, drawn from all there is to spoil: fields, kernels, calls, layers, steps.

A spoil is a scene with other launches. Values of template arguments are changed in the name as it is spelled,
argument by argument, so that no list of favourites decides which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.spoil.scenes import VERSIONS, Launches, Scene, launches_of

_ARGUMENT = re.compile(
    r"(?<=[<, ])(?:(?P<bool>true|false)|(?P<int>\d+)|(?P<type>cutlass::(?:bfloat16_t|half_t|float_e4m3_t)"
    r"|float|cutlass::arch::Sm\d+|flash::\w+Scheduler))(?=[,> <])"
)
_TYPES = ("cutlass::bfloat16_t", "cutlass::half_t", "cutlass::float_e4m3_t", "float")
_SCHEDULERS = (
    "flash::SingleTileScheduler",
    "flash::StaticPersistentTileScheduler",
    "flash::DynamicPersistentTileScheduler",
)
_TRAITS = ("head_dim", "block_m", "block_n", "warps", "Is_Q_in_regs", "Share_Q_K_smem", "dtype")
_INNER = ("inner head_dim", "inner block_m", "inner block_n", "inner warps", "inner dtype")
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 80, 96, 128, 160, 176, 192, 224, 256)
_OTHER_BACKENDS = {
    "efficient": (
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel::Params)",
    ),
    "cudnn": (
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x64x128_4x1x1_kernel0_0",
    ),
    "math": (
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn",
        "void (anonymous namespace)::softmax_warp_forward<float, float, float, 8, false, false>(float*)",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_nn",
    ),
}


@dataclass(frozen=True)
class Spoil:
    """``scene`` is spoilt in the calls ``at`` (their places); ``kind`` names what, ``detail`` how."""

    kind: str
    detail: str
    at: tuple[int, ...]
    scene: Scene


def spoil(scene: Scene, rng: Random) -> Spoil | None:
    """One thing of the scene spoilt; None where what was drawn is not there, or nothing is changed."""
    maker = rng.choice(_MAKERS)
    found = maker(scene, rng)
    if found is None or seen(found.scene) == seen(scene):
        return None
    return found


def seen(scene: Scene) -> tuple[object, ...]:
    """What a trace shows of the scene: launches in order, but for shared memory, and what marks them."""
    shown = [
        (one.step, one.layer, [(launch.kernel, launch.grid, launch.block) for launch in one.launches])
        for one in scene.calls
        if scene.shows(one)
    ]
    if scene.marks == "none" and scene.records == "none":
        return tuple(launch for _, _, launches in shown for launch in launches)
    return tuple((step, layer, tuple(launches)) for step, layer, launches in shown)


def _changed(scene: Scene, kind: str, detail: str, changed: dict[int, Launches]) -> Spoil:
    return Spoil(kind, detail, tuple(sorted(changed)), scene.with_launches(changed))


# fields of a kernel


def _pick(scene: Scene, rng: Random) -> tuple[int, int, KernelLaunch]:
    at = rng.randrange(len(scene.calls))
    number = rng.randrange(len(scene.calls[at].launches))
    return at, number, scene.calls[at].launches[number]


def _role(launch: KernelLaunch) -> str:
    role = parse_kernel_name(launch.kernel).role
    return {"combine": "combine", "scheduler": "prepare"}.get(role, "main")


def _one_launch(scene: Scene, kind: str, detail: str, at: int, number: int, launch: KernelLaunch) -> Spoil:
    launches = list(scene.calls[at].launches)
    launches[number] = launch
    return _changed(scene, kind, detail, {at: tuple(launches)})


def _size(scene: Scene, rng: Random) -> Spoil:
    """Another size of the grid or of the block."""
    at, number, launch = _pick(scene, rng)
    which, axis = rng.choice(("grid", "block")), rng.randrange(3)
    size = list(getattr(launch, which))
    old = size[axis]
    step = 32 if which == "block" and axis == 0 else 1
    size[axis] = rng.choice(
        [new for new in (old + step, old - step, 2 * old, old // 2, rng.randint(1, 200)) if new > 0]
    )
    new = replace(launch, **{which: tuple(size)})
    detail = f"{old} -> {size[axis]}"
    return _one_launch(scene, f"{_role(launch)} {which} {'xyz'[axis]}", detail, at, number, new)


def arguments(kernel: str) -> list[re.Match[str]]:
    """The literals and types among the template arguments of a name, without those of its parameters."""
    end = kernel.rfind(">(") + 1 or len(kernel)
    return list(_ARGUMENT.finditer(kernel, 0, end))


def _label(launch: KernelLaunch, number: int, count: int) -> str:
    if "Flash_fwd_kernel_traits<" not in launch.kernel:
        return f"argument {number}"
    named = (*_TRAITS, *_INNER)
    return named[number] if number < len(named) else f"argument {number - len(named)} of {count - len(named)}"


def _other_value(found: re.Match[str], rng: Random) -> str:
    old = found.group()
    if found["bool"]:
        return "false" if old == "true" else "true"
    if found["int"]:
        value = int(old)
        near = [value * 2, value // 2, value + 1, value - 1, *_SIZES]
        return str(rng.choice([one for one in near if one > 0 and one != value]))
    if "arch::" in old:
        return "cutlass::arch::Sm80" if old.endswith("90") else "cutlass::arch::Sm90"
    return rng.choice([one for one in (_SCHEDULERS if "Scheduler" in old else _TYPES) if one != old])


def _template_argument(scene: Scene, rng: Random) -> Spoil | None:
    """One template argument alone, where the name spells it."""
    at, number, launch = _pick(scene, rng)
    found = arguments(launch.kernel)
    if not found:
        return None
    which = rng.randrange(len(found))
    one = found[which]
    other = _other_value(one, rng)
    functor = launch.kernel[: launch.kernel.rfind(">(") + 1 or len(launch.kernel)]
    changed = functor[: one.start()] + other + functor[one.end() :]
    kernel = changed + launch.kernel[len(functor) :]
    inner = functor.partition("<")[2][:-1].strip()
    if launch.kernel.endswith(f"({inner}::Params)"):  # what a device_kernel runs is its parameter too
        kernel = f"{changed}({changed.partition('<')[2][:-1].strip()}::Params)"
    kind = f"{_role(launch)} template {_label(launch, which, len(found))}"
    return _one_launch(scene, kind, f"{one.group()} -> {other}", at, number, replace(launch, kernel=kernel))


def _trait(scene: Scene, rng: Random) -> Spoil | None:
    """A trait changed wherever the name states it, as another compiled kernel would."""
    at, number, launch = _pick(scene, rng)
    new = _with_trait(launch, rng.choice((0, 1, 2, 3, 6)), rng)
    if new is None:
        return None
    which, detail, changed = new
    return _one_launch(scene, f"{_role(launch)} trait {which}", detail, at, number, changed)


def _with_trait(launch: KernelLaunch, which: int, rng: Random) -> tuple[str, str, KernelLaunch] | None:
    found = arguments(launch.kernel)
    if "Flash_fwd_kernel_traits<" not in launch.kernel or len(found) < 12:
        return None
    outer, inner = found[which], found[7 + (4 if which == 6 else which)]
    other = _other_value(outer, rng)
    if which == 6:
        other = "cutlass::half_t" if "bfloat" in outer.group() else "cutlass::bfloat16_t"
    name = launch.kernel
    name = name[: inner.start()] + other + name[inner.end() :]
    name = name[: outer.start()] + other + name[outer.end() :]
    block = (int(other) * 32, 1, 1) if which == 3 and rng.random() < 0.5 else launch.block
    return _TRAITS[which], f"{outer.group()} -> {other}", replace(launch, kernel=name, block=block)


def _name(scene: Scene, rng: Random) -> Spoil | None:
    """Another kernel's own name, or another namespace, before the same template arguments."""
    at, number, launch = _pick(scene, rng)
    own = re.match(r"void ((?:\w+::)*)(\w+)<", launch.kernel)
    if own is None:
        return None
    if "traits<" in launch.kernel and rng.random() < 0.5:
        names = ("flash_fwd_kernel", "flash_fwd_splitkv_kernel", "flash_fwd_splitkv_combine_kernel")
        new = own[1] + rng.choice([one for one in names if one != own[2]])
        kind = "name"
    else:
        new = rng.choice([one for one in ("", "flash::", "pytorch_flash::") if one != own[1]]) + own[2]
        kind = "namespace"
    kernel = f"void {new}<{launch.kernel[own.end() :]}"
    return _one_launch(
        scene,
        f"{_role(launch)} {kind}",
        f"{own[1]}{own[2]} -> {new}",
        at,
        number,
        replace(launch, kernel=kernel),
    )


# kernels


def _kernel(scene: Scene, rng: Random) -> Spoil | None:
    at, number, launch = _pick(scene, rng)
    launches = list(scene.calls[at].launches)
    what = rng.choice(("dropped", "doubled", "swapped", "of another call"))
    if what == "dropped":
        if len(launches) == 1:
            return None  # that is a call dropped
        del launches[number]
    elif what == "doubled":
        launches.insert(number, launch)
    elif what == "swapped":
        if len(launches) == 1:
            return None
        launches.reverse()
    else:
        others = [
            one
            for call in scene.calls
            for one in call.launches
            if one != launch and _role(one) == _role(launch)
        ]
        if not others:
            return None
        launches[number] = rng.choice(others)
    return _changed(scene, f"{_role(launch)} {what}", launch.kernel[:60], {at: tuple(launches)})


# calls


def _call(scene: Scene, rng: Random) -> Spoil | None:
    at = rng.randrange(len(scene.calls))
    one = scene.calls[at]
    what = rng.choice(("dropped", "doubled", "other backend", "other version", "other arguments"))
    if what == "dropped":
        return _changed(scene, "call dropped", "", {at: ()})
    if what == "doubled":
        return _changed(scene, "call doubled", "", {at: one.launches * 2})
    if what == "other backend":
        backend, launches = _backend(scene, one.call, rng)
        return _changed(scene, f"call of {backend}", "", {at: launches}) if launches else None
    if what == "other version":
        version = rng.choice(VERSIONS[scene.library])
        launches = launches_of(one.call, scene.gpu, version)
        return _changed(scene, "call of another version", version, {at: launches}) if launches else None
    call = _other_call(one.call, rng)
    launches = launches_of(call, scene.gpu, scene.version)
    return (
        _changed(scene, "call with other arguments", _difference(one.call, call), {at: launches})
        if launches
        else None
    )


def _other_call(call: AttentionCall, rng: Random) -> AttentionCall:
    """The same call with one argument otherwise."""
    changes: list[dict[str, object]] = [
        {"batch": call.batch + 1},
        {"num_heads": call.num_heads * 2, "num_heads_k": call.num_heads_k * 2},
        {"head_dim": 64 if call.head_dim != 64 else 128},
        {"dtype": "fp16" if call.dtype == "bf16" else "bf16"},
        {"causal": not call.causal},
        {"softcap": 30.0},
        {"seqlen_k": call.seqlen_k * 2},
    ]
    return replace(call, **rng.choice(changes))  # type: ignore[arg-type]


def _difference(old: AttentionCall, new: AttentionCall) -> str:
    fields = ("batch", "num_heads", "head_dim", "dtype", "causal", "softcap", "seqlen_k")
    return ", ".join(
        f"{f} {getattr(old, f)} -> {getattr(new, f)}" for f in fields if getattr(old, f) != getattr(new, f)
    )


def _backend(scene: Scene, call: AttentionCall, rng: Random) -> tuple[str, Launches]:
    """The same call by another library or backend: its name and launches."""
    which = rng.choice(("efficient", "cudnn", "math", "torch", "flash_attn", "flash_attn_3"))
    if which in _OTHER_BACKENDS:
        return which, tuple(
            KernelLaunch(name, (8, call.batch, 1), (128, 1, 1)) for name in _OTHER_BACKENDS[which]
        )
    if (
        which == scene.library
        or (which == "flash_attn" and scene.version == "fa2")
        or (which == "flash_attn_3" and scene.version == "fa3")
    ):
        return which, ()
    plain = replace(call, library=which, entry="fwd", total_q=None, page_block_size=None, seqlen_knew=None)
    plain = replace(plain, cache_seqlens=False, window=(-1, -1), num_heads_k=call.num_heads)  # type: ignore[arg-type]
    return which, launches_of(plain, scene.gpu, VERSIONS[which][-1])  # type: ignore[index]


# layers and steps


def _layer(scene: Scene, rng: Random) -> Spoil | None:
    """One layer otherwise in every step."""
    layer = rng.randrange(len(scene.kinds))
    mine = [at for at, one in enumerate(scene.calls) if one.layer == layer]
    if not mine:
        return None  # a layer without attention
    what = rng.choice(("dtype", "backend", "dropped from a step on"))
    if what == "dropped from a step on":
        steps = sorted({one.step for one in scene.calls})
        first = rng.choice(steps[1:])
        return _changed(
            scene,
            "layer dropped from a step on",
            f"step {first}",
            {at: () for at in mine if scene.calls[at].step >= first},
        )
    if what == "dtype":
        changed = {}
        for at in mine:
            call = scene.calls[at].call
            other = replace(call, dtype="fp16" if call.dtype == "bf16" else "bf16")
            changed[at] = launches_of(other, scene.gpu, scene.version)
        if not all(changed.values()):
            return None  # the library has no such kernels
        return _changed(scene, "layer of another dtype", "", changed)
    state = rng.getstate()
    changed = {}
    for at in mine:
        rng.setstate(state)
        backend, launches = _backend(scene, scene.calls[at].call, rng)
        if not launches:
            return None
        changed[at] = launches
    return _changed(scene, f"layer of {backend}", "", changed)


def _step(scene: Scene, rng: Random) -> Spoil | None:
    """A step with the launches of another: frozen, or two exchanged."""
    steps: dict[int, list[int]] = {}
    for at, one in enumerate(scene.calls):
        if one.phase == "decode":
            steps.setdefault(one.step, []).append(at)
    pairs = [
        (a, b)
        for a in steps
        for b in steps
        if a < b and len(steps[a]) == len(steps[b]) and _of(scene, steps[a]) != _of(scene, steps[b])
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    if rng.random() < 0.5:
        changed = {
            at: scene.calls[source].launches for at, source in zip(steps[second], steps[first], strict=True)
        }
        return _changed(scene, "step frozen", f"step {second} as step {first}", changed)
    changed = {
        at: scene.calls[source].launches for at, source in zip(steps[second], steps[first], strict=True)
    }
    changed |= {
        at: scene.calls[source].launches for at, source in zip(steps[first], steps[second], strict=True)
    }
    return _changed(scene, "steps exchanged", f"steps {first} and {second}", changed)


def _of(scene: Scene, at: list[int]) -> list[Launches]:
    return [scene.calls[one].launches for one in at]


_MAKERS: tuple[Callable[[Scene, Random], Spoil | None], ...] = (
    *(_size, _size, _template_argument, _template_argument, _template_argument, _trait, _name),
    *(_kernel, _kernel, _call, _call, _layer, _step, _step),
)


def spoils(scene: Scene, rng: Random, count: int) -> Iterator[Spoil]:
    """``count`` spoils of the scene."""
    made = tried = 0
    while made < count and tried < 50 * count:
        tried += 1
        found = spoil(scene, rng)
        if found is not None:
            made += 1
            yield found
