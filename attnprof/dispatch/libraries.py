"""The registry of attention libraries: the one place that lists them.

A library is a folder with a ``library.py`` whose ``LIBRARY`` is an AttentionLibrary; a ``names.py`` beside it
may hold FAMILIES, how its kernels are called. To add one, write its folder and one line here. Its rules are
imported when it is asked for a prediction.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from attnprof.errors import UsageError
from attnprof.model import Prediction, Reason

if TYPE_CHECKING:
    from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
    from attnprof.dispatch.intervals import InferredCall, Interval
    from attnprof.dispatch.library import AnswerTo, AttentionLibrary, Launches
    from attnprof.dispatch.names.family import Family
    from attnprof.model import AttentionCall, Gpu

LIBRARIES: dict[str, str] = {  # what people call it -> its folder, as a module
    "flash_attn": "attnprof.dispatch.flash_attn2",
    "torch": "attnprof.dispatch.torch_sdpa",
    "flash_attn_3": "attnprof.dispatch.flash_attn3",
    "vllm_flash_attn": "attnprof.dispatch.vllm_flash_attn",
    "flash_attn_4": "attnprof.dispatch.flash_attn4",
    "flashinfer": "attnprof.dispatch.flashinfer",
    "flash_mla": "attnprof.dispatch.flash_mla",
    "cutlass_mla": "attnprof.dispatch.cutlass_mla",
    "tokenspeed_mla": "attnprof.dispatch.tokenspeed_mla",
    "flex_attention": "attnprof.dispatch.flex_attention",
    "aiter": "attnprof.dispatch.aiter",
    "aiter_paged": "attnprof.dispatch.aiter_paged",
    "vllm_triton": "attnprof.dispatch.vllm_triton",
    "vllm_rocm": "attnprof.dispatch.vllm_rocm",
    "sglang_triton": "attnprof.dispatch.sglang_triton",
}
# An engine's attention on the CPU -> the library that the engine hands the same paged batch on a GPU.
ON_GPU = {"vllm_cpu": "vllm_flash_attn"}
_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD"}
_ON_AMD = "AITER, Composable Kernel or AOTriton attends there: attnprof report names the kernels"
NVFP4 = "nvfp4"
FLASH = "flash"  # the backend whose launches are predicted where a library has several
DEFAULT_LIBRARY = "flash_attn"  # what a call is predicted for where nobody says, and none was observed


def library(name: str) -> AttentionLibrary:
    """The library called ``name``. Raises UsageError where it is not modelled."""
    if name not in LIBRARIES:
        known = ", ".join(sorted(LIBRARIES))
        raise UsageError(f"attention library {name!r} is not modelled", hint=f"modelled: {known}")
    return _library(LIBRARIES[name])


@lru_cache(maxsize=64)
def _library(folder: str) -> AttentionLibrary:
    found: AttentionLibrary = import_module(f"{folder}.library").LIBRARY
    return found


def predict_by_function(call: AttentionCall, gpu: Gpu, version: str, *, explain: bool = False) -> Prediction:
    """As ``predict``, of the function that people call: a backend that it passes over launches nothing.

    The reasons begin with the backend taken and what ruled out each other one.
    """
    prediction = predict(call, gpu, version, explain=explain)
    taken = library(call.library).backend(call, gpu, version)
    if taken is None:
        return prediction
    first = Reason("backend", taken.name, f"what {taken.function} takes")
    others = tuple(Reason(f"not {one.rule}", one.value, one.why) for one in taken.ruled_out)
    reasons = (first, *others) if explain else ()
    if taken.name != FLASH:
        return Prediction(reasons=reasons, backend=taken.name)
    return replace(prediction, reasons=(*reasons, *prediction.reasons), backend=taken.name)


def all_libraries() -> dict[str, AttentionLibrary]:
    """Every library by name."""
    return {name: library(name) for name in LIBRARIES}


def predicted_for(name: str, *, on_gpu: bool) -> str:
    """The library that a recorded call of ``name`` is predicted for where nobody says."""
    return name if on_gpu else ON_GPU.get(name, DEFAULT_LIBRARY)


def entry_on_gpu(name: str) -> str:
    """The entry of a library that takes a paged batch; "" where it has none."""
    asked = library(name)
    paged = (*(("varlen_fwd",) if asked.packs_pages else ()), "batch_paged")
    return next((entry for entry in paged if entry in asked.entries), "")


def entry_unless_given(name: str, entry: str) -> str:
    """``entry``, or what people mean where it is the default, "fwd", and the library has none such."""
    if entry != "fwd" or name not in LIBRARIES:
        return entry
    entries = library(name).entries
    return entry if entry in entries else entry_on_gpu(name) or entries[0]


def kernel_families() -> tuple[Family, ...]:
    """The FAMILIES of every library that keeps them in its folder."""
    return _families(tuple(LIBRARIES.values()))


@lru_cache(maxsize=8)
def _families(folders: tuple[str, ...]) -> tuple[Family, ...]:
    from importlib.util import find_spec

    modules = [f"{folder}.names" for folder in folders]
    named = [import_module(module) for module in modules if find_spec(module)]
    return tuple(family for module in named for family in getattr(module, "FAMILIES", ()))


def default_version(name: str) -> str:
    """The version predicted for where none is given or installed."""
    return library(name).default_version


def rules_known(name: str, version: str) -> bool:
    """Whether this version of a modelled library can be predicted."""
    try:
        library(name).check_version(version)
    except UsageError:
        return False
    return True


def predict(
    call: AttentionCall, gpu: Gpu, version: str | None = None, *, explain: bool = False
) -> Prediction:
    """What ``call.library`` launches for ``call`` on ``gpu``.

    Raises UsageError for a library or version whose rules are not known.
    """
    asked = library(call.library)
    if asked.vendor not in (gpu.vendor, "any"):
        raise UsageError(
            f"{call.library} is not predicted on {gpu.name}: "
            f"its rules are those of {_VENDORS[asked.vendor]} GPUs",
            hint=_ON_AMD if gpu.vendor == "amd" else "give an AMD GPU, such as --gpu mi300x",
        )
    if call.dtype == NVFP4 and NVFP4 not in asked.dtypes:
        raise UsageError(f"{call.library} over an NVFP4 cache is not modelled")
    try:
        return asked.predict(call, gpu, version or asked.default_version, explain=explain)
    except ZeroDivisionError:
        raise UsageError(
            f"{call.library}'s rules do not hold for batch {call.batch}, seqlen_q {call.seqlen_q}, seqlen_k"
            f" {call.seqlen_k}, {call.num_heads}/{call.num_heads_k} heads x {call.head_dim}: one of them is"
            " too small to be shared out",
            hint="num_heads is a multiple of num_heads_k, and a call has queries and keys",
        ) from None


def alike(call: AttentionCall, gpu: Gpu, version: str | None = None) -> AnswerTo:
    """:func:`predict` for calls that differ from ``call`` in batch and lengths alone.

    What these do not enter is gone through once, where the library can. Raises as :func:`predict` does.
    """
    asked = library(call.library)
    once = None
    if asked.vendor in (gpu.vendor, "any"):
        once = asked.alike(call, gpu, version or asked.default_version)

    def each(batch: int, seqlen_q: int, seqlen_k: int) -> Prediction:
        return predict(replace(call, batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k), gpu, version)

    return once or each


def read_back(kernel: str, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
    """What the launch of a main kernel says of its call, read by the library whose kernel it is."""
    answers = (each.read_back(kernel, grid, num_sms) for each in all_libraries().values())
    return next((answer for answer in answers if answer is not None), None)


def splits_at(kernel: str, call: InferredCall, num_sms: int, seqlen_k: Interval) -> set[int]:
    """The split counts that a call read back from ``kernel`` gets for KV lengths of an interval."""
    answers = (each.splits_at(kernel, call, num_sms, seqlen_k) for each in all_libraries().values())
    return set().union(*answers)


@lru_cache(maxsize=4096)
def explain(seen: Observed, gpu: GpuFacts, whose: str = "") -> ReadBack | None:
    """Every kind of call for which a known library launches exactly ``seen``; None of kernels of no such.

    ``whose`` the main kernel is, as its name tells: a library that has no such kernels is not asked, nor
    on AMD GPUs one whose rules are of NVIDIA's.
    """
    from attnprof.dispatch.explanation import merged

    gpus = dict.fromkeys((gpu, gpu.as_amd) if gpu.may_be_amd else (gpu,))
    answers = [
        each.explain(seen, one)
        for one in gpus
        for each in having(whose)
        if one.vendor != "amd" or each.vendor != "nvidia"
    ]
    return merged([answer for answer in answers if answer is not None])


def only_on_nvidia(whose: str) -> bool:
    """Whether every library that may launch a kernel of library ``whose`` has rules of NVIDIA GPUs alone."""
    return all(each.vendor == "nvidia" for each in having(whose))


def having(whose: str) -> list[AttentionLibrary]:
    """The libraries that may launch a kernel whose name tells whose it is; all of them where it does not."""
    every = all_libraries().values()
    return [each for each in every if not (whose and each.kernels) or whose in each.kernels]


def template_fields(kernel: str) -> tuple[tuple[str, object], ...] | None:
    """The template arguments of a kernel by the names its source gives them; None where nobody reads it."""
    answers = (library(name).template_fields(kernel) for name in LIBRARIES)  # each imported when asked
    return next((answer for answer in answers if answer is not None), None)


def named_only(kernel: str) -> str:
    """Why a kernel's launches are not predicted, as its library says it; "" where none does."""
    return next((why for each in all_libraries().values() if (why := each.named_only(kernel))), "")


def versions_spelling(kernel: str) -> dict[str, tuple[str, ...]]:
    """For each library, the versions that spell a main kernel so, where its name tells."""
    told = {name: each.versions_spelling(kernel) for name, each in all_libraries().items()}
    return {name: versions for name, versions in told.items() if versions}


@lru_cache(maxsize=4096)
def window_may_tell(one: Launches, other: Launches) -> bool:
    """Whether a window of one layer may be why two calls of a step, whose names state none, differ."""
    return any(library(name).window_may_tell(one, other) for name in LIBRARIES)
