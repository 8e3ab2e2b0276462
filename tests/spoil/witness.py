"""Calls that launch what a trace shows, looked for near a given call by the forward prediction."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.libraries import explain
from attnprof.dispatch.names.families import halves_of
from attnprof.dispatch.names.family import Halves
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.vllm_rocm.dispatch import PREFILL, TRITON_DECODE
from attnprof.dispatch.vllm_rocm.paged import is_paged
from attnprof.model import AttentionCall, Dtype, Gpu, KernelLaunch
from tests.spoil import flashinfer_scenes, triton_scenes
from tests.spoil.libraries import SERVED
from tests.spoil.scenes import Launches, Scene, launches_of
from tests.support.witnesses import witness as near_explanations

_MOST_QUERIES, _COMBINED = 8, (4, 8, 16)  # of a speculative step; rows of a combine kernel's thread block
_MOST_BASES = 6  # other calls of a scene, from which a witness is looked for
# each bucket's own, and one below it
_HEAD_DIMS = (24, 32, 56, 64, 72, 80, 96, 120, 128, 152, 160, 184, 192, 216, 224, 248, 256)
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


def lengths(call: AttentionCall) -> Iterator[int]:
    """KV lengths up to twice the call's: the last key of 64 and the one before it."""
    for edge in range(64, 2 * call.seqlen_k + 512, 64):
        yield from (edge, edge - 1)


def combines(launch: KernelLaunch) -> bool:
    """Whether it adds up what a kernel before it wrote."""
    return parse_kernel_name(launch.kernel).role == "combine"


def units(launches: Launches) -> list[Launches]:
    """The launches as calls: a main kernel, the one before that plans, the one after that combines."""
    found: list[list[KernelLaunch]] = []
    for launch in launches:
        begins = not combines(launch)
        planned = bool(found) and (plans(found[-1][-1]) or _after_prompts(found[-1][-1], launch))
        second = len(found[-1]) == 1 and found[-1][0] == launch and _halves(launch) if found else False
        if not found or (begins and not planned and not second) or plans(launch):
            found.append([])
        found[-1].append(launch)
    return [tuple(unit) for unit in found]


def _halves(launch: KernelLaunch) -> bool:
    """Whether a call may launch it twice, each for half its heads, as its name alone tells."""
    signature = parse_kernel_name(launch.kernel)
    return halves_of(signature.library, launch.kernel) is Halves.SPLIT


def _after_prompts(before: KernelLaunch, launch: KernelLaunch) -> bool:
    """Whether it decodes the requests of one query of a ROCM_ATTN step, whose prompts come first."""
    return before.kernel == PREFILL and (is_paged(launch.kernel) or launch.kernel == TRITON_DECODE)


def witness(call: AttentionCall, unit: Launches, scene: Scene, version: str) -> AttentionCall | None:
    """A call near ``call`` that launches the unit: other sizes, and up to two other flags."""
    if scene.library in triton_scenes.VERSIONS:
        return triton_scenes.witness(unit, scene.gpu) or _served(call, unit, scene.gpu, version)
    if scene.library in flashinfer_scenes.VERSIONS:
        found = flashinfer_scenes.witness(unit, scene.gpu, call)
        return found or _served(call, unit, scene.gpu, version)
    if call.has_qv or (scene.library in SERVED and scene.library != "vllm_flash_attn"):
        return _served(call, unit, scene.gpu, version)
    main = next((one for one in unit if _is_main(one)), None)
    if main is None:
        return None
    bases: dict[object, AttentionCall] = {}
    for other in (call, *(one.call for one in scene.calls)):  # lengths are searched from any of a kind
        bases.setdefault(replace(other, batch=1, seqlen_q=1, seqlen_k=1, total_q=None), other)
    return next(
        (
            found
            for base in tuple(bases.values())[: 1 + _MOST_BASES]
            for one in _by_entry(base, main)
            if (found := _near(one, unit, main, scene, version))
        ),
        None,
    )


@lru_cache(maxsize=65536)
def _served(call: AttentionCall, unit: Launches, gpu: Gpu, version: str) -> AttentionCall | None:
    """Of any library: with another flag, else looked for where the explanations read back tell; and held by
    the prediction alone."""
    flagged = (replace(call, **flag) for flag in _FLAGS)  # type: ignore[arg-type]
    if same := next((one for one in flagged if launches_of(one, gpu, version) == unit), None):
        return same
    roles = [parse_kernel_name(one.kernel).role for one in unit]
    mains = [one for one, role in zip(unit, roles, strict=True) if role == "main"]
    after = next((one for one, role in zip(unit, roles, strict=True) if role == "combine"), None)
    before = next((one for one, role in zip(unit, roles, strict=True) if role == "scheduler"), None)
    if not mains:
        return None
    seen = Observed(mains[0], after, before, mains[1] if len(mains) > 1 else None)
    back = explain(seen, GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), gpu.vendor))
    dtypes: tuple[Dtype, ...] = ("bf16", "fp16", "fp8")
    calls = dict.fromkeys((call, *(replace(call, dtype=dtype) for dtype in dtypes)))
    found = (near_explanations(unit, gpu, one, version, back or ReadBack()) for one in calls)
    return next((one for one in found if one is not None), None)


def _by_entry(call: AttentionCall, main: KernelLaunch) -> Iterator[AttentionCall]:
    """The call, and as another entry of its library takes it, one with as many splits as were asked for."""
    yield call
    if call.library == "flash_attn" and call.entry in ("fwd", "fwd_kvcache"):
        yield replace(call, entry="fwd_kvcache", cache_seqlens=True, num_splits=min(main.grid[1], 128))
    if call.entry != "fwd" and call.library != "vllm_flash_attn":
        plain = replace(call, total_q=None, page_block_size=None, seqlen_knew=None, cache_seqlens=False)
        yield replace(plain, entry="fwd")
    if call.library == "flash_attn_3" and call.entry == "varlen_fwd":
        yield replace(call, entry="fwd_kvcache", cache_seqlens=True)
    if call.library == "flash_attn_3" and call.entry == "fwd_kvcache":
        yield replace(call, total_q=call.batch * call.seqlen_q)


def plans(launch: KernelLaunch) -> bool:
    """Whether it plans a packed batch, as get_scheduler_metadata launches it alone."""
    return parse_kernel_name(launch.kernel).role == "scheduler"


def _is_main(launch: KernelLaunch) -> bool:
    return not plans(launch) and not combines(launch)


def _near(
    call: AttentionCall, unit: Launches, main: KernelLaunch, scene: Scene, version: str
) -> AttentionCall | None:
    if main.kernel not in _names(call, scene, version):
        return None
    after = next((one for one in unit if combines(one)), None)
    for flagged in _flagged(call):
        for sized in _sizes(flagged, main):
            for found in _of_lengths(sized, main, after, scene, version):
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
    call: AttentionCall, main: KernelLaunch, after: KernelLaunch | None, scene: Scene, version: str
) -> Iterator[AttentionCall]:
    """The call with other lengths, where one of them has the main kernel's name at all."""
    named = _TILE_NAMED.search(main.kernel)
    block_m = int(named[2] or named[3]) if named else 64
    rows = main.grid[0]
    combined = (
        ()
        if after is None
        else (-(-after.grid[0] * size // (call.batch * call.num_heads)) for size in _COMBINED)
    )
    queries = dict.fromkeys((call.seqlen_q, rows * block_m, rows * block_m - 1, 1))
    queries |= dict.fromkeys(one for one in combined if one <= _MOST_QUERIES)
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
            keys_tried = (call.seqlen_k, seqlen_q, *lengths(call))
            yield from (replace(asked, seqlen_k=keys) for keys in keys_tried)
