"""How FlashAttention-3's kernels are named: a main kernel from its template fields, and back.

Source: flash_attn hopper/flash_fwd_launch_template.h, flash_fwd_combine_launch_template.h and
flash_prepare_scheduler.cu, tags v2.7.3 to v2.8.3.post1; spelled as abi::__cxa_demangle spells it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from attnprof.dispatch.names.arguments import literal, template_arguments
from attnprof.dispatch.names.family import Family, row

EARLY = "fa3_fwd_early"  # the forward kernel before it was rewritten
FAMILIES: tuple[Family, ...] = (
    row("flash-attn-3", "fa3_bwd_aux", r"FlashAttnBwd(?:Pre|Post)process\w*$", "backward"),
    row("flash-attn-3", "fa3_bwd", r"FlashAttnBwd\w*$", "backward"),
    row("flash-attn-3", "fa3_combine", r"FlashAttnFwdCombine$", "combine"),
    row("flash-attn-3", "fa3_fwd_sm80", r"FlashAttnFwdSm80$"),
    row("flash-attn-3", "fa3_fwd", r"FlashAttnFwdSm90$"),
    row("flash-attn-3", EARLY, r"compute_attn_ws\w*$"),
    row("flash-attn-3", "scheduler_aux", r"prepare_varlen_num_blocks_kernel$", "scheduler"),
)  # fmt: skip

_PREPARE = "flash::prepare_varlen_num_blocks_kernel"
_PREPARE_PARAMETERS = (
    "int, int, int, int const*, int const*, int const*, int const*, int const*, int const*, "
    "int, int, int, int, int, cutlass::FastDivmod, cutlass::FastDivmod, int*, int*"
)
PREPARE_KERNEL = f"{_PREPARE}({_PREPARE_PARAMETERS}, bool)"
ELEMENTS = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t", "fp8": "cutlass::float_e4m3_t"}
OUTPUTS = {**ELEMENTS, "fp8": ELEMENTS["bf16"]}
_COMBINED = {**ELEMENTS, "fp32": "float"}  # what a combine kernel may be said to write
WARP_SPECIALIZED_FROM = 90
_COMBINE_ARGUMENTS = 9
_WRAPPERS = 4


def cute_tuple(*values: int) -> str:
    return f"cute::tuple<{', '.join(f'cute::C<{value}>' for value in values)} >"


def template(name: str, *arguments: object) -> str:
    """``name<…>``, booleans in lower case, as the demangler spells nested templates."""
    inner = ", ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)
    return f"{name}<{inner}{' ' if inner.endswith('>') else ''}>"


def prepare_kernel(warps: int, *, sort: bool) -> str:
    """The kernel that plans batches of any size, compiled by warps; it has more arguments."""
    parameters = f"{_PREPARE_PARAMETERS}, int*, int*, int*, bool, bool, bool, int"
    return f"void {template(_PREPARE, warps, sort)}({parameters})"


def device_kernel(functor: str) -> str:
    """The kernel that runs a functor over its parameters."""
    return f"void {template('cutlass::device_kernel', functor)}({functor}::Params)"


@dataclass(frozen=True, slots=True)
class MainKernel:
    """The template fields of a main kernel.

    ``head_dim_v`` is None where the version's templates name neither it nor HasQv.
    ``cluster``: thread blocks per cluster.
    ``has_epilogue_split``: the epilogue names Split, else it writes float there.
    ``sorts``: the scheduler of packed batches takes them sorted; None where its template names no plan.
    ``mma_threads`` and ``producer_threads`` multiply and load.  ``block_h``: packed query heads per load in
    vLLM's fork, which also names the element of attention sinks; None upstream.  ``qv_flags``: HasQv, and
    what follows it there since vllm 0.33.0.
    """

    arch: int
    dtype: str
    block_m: int
    block_n: int
    head_dim: int
    head_dim_v: int | None
    stages: int
    in_registers: bool
    overlap: bool
    cluster: int
    mma_threads: int
    producer_threads: int
    causal: bool
    local: bool
    softcap: bool
    varlen: bool
    paged: bool
    append: bool
    pack_gqa: bool
    split: bool
    persistent: bool
    has_epilogue_split: bool
    sorts: bool | None
    block_h: int | None = None
    qv_flags: int = 1
    has_qv: bool = False
    sparse_flag: bool = False

    def name(self) -> str:
        """The demangled name of the kernel."""
        sm90 = self.arch >= WARP_SPECIALIZED_FROM
        kernel = "flash::FlashAttnFwdSm90" if sm90 else "flash::FlashAttnFwdSm80"
        guard = "flash::enable_sm90_or_later" if sm90 else "flash::enable_sm80_to_sm89"
        parts = (self.mainloop(), self.epilogue(), self.scheduler())
        return device_kernel(template(guard, template(kernel, *parts)))

    def mainloop(self) -> str:
        tile = cute_tuple(self.block_m, self.block_n, self.head_dim)
        value_dim = () if self.head_dim_v is None else (self.head_dim_v,)
        element = ELEMENTS[self.dtype]
        masks = (self.causal, self.local, self.softcap, self.varlen, self.paged, self.append)
        if self.arch < WARP_SPECIALIZED_FROM:
            return template(
                "flash::CollectiveMainloopFwdSm80",
                self.mma_threads // 32, self.stages, self.in_registers, tile, *value_dim, element, "float",
                "cutlass::arch::Sm80", *masks, self.pack_gqa, self.split, *self.sinks()[:1],
            )  # fmt: skip
        has_qv = (self.has_qv, False)[: self.qv_flags] if self.head_dim_v is not None else ()
        return template(
            "flash::CollectiveMainloopFwdSm90",
            self.stages, self.cluster_shape(), tile, *value_dim, element, "float", "cutlass::arch::Sm90",
            *masks, *has_qv, self.in_registers, self.overlap, self.pack_gqa, self.split, False,
            *self.sinks(),
        )  # fmt: skip

    def sinks(self) -> tuple[object, ...]:
        """The element of attention sinks, and what a fork names after it."""
        if self.block_h is None:
            return ()
        return (ELEMENTS["bf16"], *((False,) if self.sparse_flag else ()), self.block_h)

    def epilogue(self) -> str:
        if self.head_dim_v is None:
            tile = cute_tuple(self.block_m, self.block_n, self.head_dim)
        else:
            tile = cute_tuple(self.block_m, self.head_dim_v, self.block_n)
        output = OUTPUTS[self.dtype]
        if self.split and not self.has_epilogue_split:
            output = "float"
        split = (self.split,) if self.has_epilogue_split else ()
        block_h = () if self.block_h is None or self.sparse_flag else (self.block_h,)
        return template(
            "flash::CollectiveEpilogueFwd",
            tile, self.cluster_shape(), output, arch_tag(self.arch), self.mma_threads, self.varlen,
            self.pack_gqa, *split, self.dtype == "fp8", *block_h,
        )  # fmt: skip

    def scheduler(self) -> str:
        if not self.persistent:
            return template(
                "flash::SingleTileScheduler", self.varlen, self.split, self.pack_gqa, self.block_m
            )
        threads = (self.mma_threads, self.producer_threads)
        rest = (self.split, self.pack_gqa, self.arch >= WARP_SPECIALIZED_FROM)
        if self.varlen:
            name = "flash::VarlenDynamicPersistentTileScheduler"
            if self.sorts is None:
                return template(name, self.block_m, *threads, *rest)
            longest_first, prepared = self.causal or self.local, True
            planned = (longest_first, self.sorts, prepared)
            return template(name, self.block_m, self.block_n, *threads, *rest, *planned)
        if self.causal or self.local:
            return template("flash::DynamicPersistentTileScheduler", *threads, *rest)
        return template("flash::StaticPersistentTileScheduler", self.split)

    def cluster_shape(self) -> str:
        return cute_tuple(self.cluster, 1, 1)


def arch_tag(arch: int) -> str:
    return "cutlass::arch::Sm90" if arch >= WARP_SPECIALIZED_FROM else "cutlass::arch::Sm80"


def combine_kernel(
    block_m: int, block_k: int, log_max_splits: int, *, varlen: bool, dtype: str, arch: int
) -> str:
    """The demangled name of the kernel that adds up the splits."""
    functor = template(
        "flash::FlashAttnFwdCombine",
        cute_tuple(block_m, block_k), log_max_splits, 256, 1, False, varlen, OUTPUTS[dtype], "float",
        arch_tag(arch),
    )  # fmt: skip
    return device_kernel(functor)


_MASK_FLAGS = ("Is_causal", "Is_local", "Has_softcap", "Varlen", "PagedKVNonTMA", "AppendKV")
_HOPPER_FLAGS = ("MmaPV_is_RS", "IntraWGOverlap", "PackGQA", "Split", "V_colmajor")
_PLAN_FLAGS = ("LPT", "Sort", "Prepared")  # the last of ten arguments of the packed batches' scheduler
_FLAGS = {  # mainloop, how many booleans it names -> which
    ("CollectiveMainloopFwdSm90", 12): (*_MASK_FLAGS, "HasQv", *_HOPPER_FLAGS),
    # vllm 0.33.0 and sglang-kernel 0.4.10: one more, set in some of the kernels with HasQv and in no others
    ("CollectiveMainloopFwdSm90", 13): (*_MASK_FLAGS, "HasQv", "HasQv_and", *_HOPPER_FLAGS),
    ("CollectiveMainloopFwdSm90", 11): (*_MASK_FLAGS, *_HOPPER_FLAGS),
    ("CollectiveMainloopFwdSm80", 8): (*_MASK_FLAGS, "PackGQA", "Split"),
}


@dataclass(frozen=True, slots=True)
class MainTemplate:
    """What the name of a main kernel says, whatever profiler spelled it.

    ``head_dim_v`` equals ``head_dim`` where the version does not name it; ``cluster`` is in thread blocks,
    ``threads`` the block's. ``scheduler`` is the tile scheduler's name. ``flags`` as in the source, the
    scheduler's among them where it is told what was planned.
    """

    head_dim: int
    head_dim_v: int
    block_m: int
    block_n: int
    dtype: str
    stages: int
    cluster: int
    threads: int
    scheduler: str
    flags: tuple[tuple[str, bool], ...]

    def flag(self, name: str) -> bool | None:
        """A template boolean by name; None where the version lacks it."""
        return dict(self.flags).get(name)


@lru_cache(maxsize=4096)
def parse_main_kernel(name: str) -> MainTemplate | None:
    """The template of a FlashAttnFwdSm90 or FlashAttnFwdSm80 kernel.

    None for other kernels, for names that are cut, and for argument lists that no known version has.
    """
    parts = _functor_arguments(name)
    arguments = template_arguments(parts[0]) or [] if len(parts) >= 3 else []
    if "float" not in arguments:
        return None
    accumulator = arguments.index("float")
    dtype = _dtype_of(arguments[accumulator - 1], ELEMENTS)
    booleans = list(itertools.takewhile(_is_literal, arguments[accumulator + 2 :]))
    mainloop = parts[0].partition("<")[0].rpartition("::")[2]
    names = _FLAGS.get((mainloop, len(booleans)))
    shapes = [_cute_shape(argument) for argument in arguments if "tuple<" in argument]
    if dtype is None or names is None or not shapes or any(len(shape) != 3 for shape in shapes):
        return None
    block_m, block_n, head_dim = shapes[-1]
    named_v = literal(arguments[accumulator - 2])
    hopper = mainloop.endswith("Sm90")
    warps, stages = (0, literal(arguments[0])) if hopper else map(literal, arguments[:2])
    epilogue = template_arguments(parts[1]) or []
    threads = next((value for value in map(literal, epilogue[4:]) if value is not None), (warps or 0) * 32)
    flags = [*zip(names, booleans, strict=True), *_plan_flags(parts[2])]
    if not hopper:
        flags.append(("Q_in_regs", arguments[2]))
    return MainTemplate(
        head_dim, head_dim if named_v is None else named_v, block_m, block_n, dtype, stages or 0,
        shapes[0][0] if hopper else 1, threads + 128 if hopper else threads,
        parts[2].partition("<")[0].rpartition("::")[2],
        tuple((flag, bool(literal(value))) for flag, value in flags),
    )  # fmt: skip


def _functor_arguments(name: str) -> list[str]:
    """The template arguments of the functor inside ``device_kernel<enable_…<…>>``."""
    functor = name
    for _ in range(_WRAPPERS):
        if re.match(r"(?:flash::)?FlashAttnFwdSm[89]0<", functor):
            return template_arguments(functor) or []
        functor = next(iter(template_arguments(functor) or []), "")
    return []


def _plan_flags(scheduler: str) -> list[tuple[str, str]]:
    arguments = template_arguments(scheduler) or []
    return list(zip(_PLAN_FLAGS, arguments[7:], strict=True)) if len(arguments) == 10 else []


Fields = tuple[tuple[str, object], ...]


def template_fields(name: str) -> Fields | None:
    """The template of a main or combine kernel, field by field; None as of :func:`parse_main_kernel`."""
    main = parse_main_kernel(name)
    if main is None:
        return _combine_fields(name)
    fields = ("head_dim", "head_dim_v", "block_m", "block_n", "stages", "dtype", "cluster", "scheduler")
    return (*((field, getattr(main, field)) for field in fields), *main.flags)


def _combine_fields(name: str) -> Fields | None:
    found = re.search(r"FlashAttnFwdCombine<", name)
    arguments = template_arguments(name[found.end() - 1 :]) if found else None
    if not arguments or len(arguments) != _COMBINE_ARGUMENTS:
        return None
    shape, log_max_splits, _, _, _, varlen, element = arguments[:7]
    tile, dtype = _cute_shape(shape), _dtype_of(element, _COMBINED)
    if len(tile) != 2 or dtype is None or literal(log_max_splits) is None:
        return None
    return (
        ("combine_block_m", tile[0]),
        ("combine_block_k", tile[1]),
        ("log_max_splits", literal(log_max_splits)),
        ("Varlen", bool(literal(varlen))),
        ("dtype", dtype),
    )


def _dtype_of(element: str, elements: dict[str, str]) -> str | None:
    name = element.rpartition("::")[2]
    return next((ours for ours, theirs in elements.items() if theirs.rpartition("::")[2] == name), None)


def _cute_shape(text: str) -> list[int]:
    return [int(value) for value in re.findall(r"C<(?:\(int\))?(\d{1,9})>", text)]


def _is_literal(argument: str) -> bool:
    return literal(argument) is not None
