"""vLLM as an engine: its versions, and what it does with a layer and a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnprof.dispatch.engines.layer import Choice, Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm import (
    amd_calls,
    calls,
    flash_attention,
    mla_calls,
    old_mla,
    old_selector,
    rocm,
    selector,
)
from attnprof.dispatch.engines.vllm.backends import flash_refusal
from attnprof.dispatch.engines.vllm.conditions import KV_DTYPES
from attnprof.errors import UsageError
from attnprof.model import Gpu

NAME = "vllm"
DEFAULT_VERSION = "0.33.0"
_CUTLASS_MLA = "0.33.0"  # whose calls the wheel of 0.20.2 was recorded to launch just the same
_READ = ("TRITON_ATTN", "TRITON_MLA")  # backends on AMD GPUs that are 0.20's on NVIDIA's too
_REMOVED = "removed from vLLM before 0.33.0"
_OFF = "off unless disable_cascade_attn=False asks for it"
_BY_ITSELF = "taken for a prefix of 256 tokens that at least 8 requests share; one is not described here"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of vLLM whose wheel was read and recorded."""

    rules: calls.Rules
    newest: bool = False

    def configured(self, layer: Layer, sm: Sm) -> Layer:
        """The layer as the engine is configured before it asks for a backend."""
        return old_mla.configured(layer, sm) if self.rules.chain else layer

    def choose(self, layer: Layer, sm: Sm) -> Choice:
        if self.rules.chain:
            return old_selector.choose(layer, sm)
        return selector.choose(layer, sm, newest=self.newest)


def _new(layer: Layer, sm: Sm) -> flash_attention.Version:
    return flash_attention.of_layer(layer, sm, newest=True)


def _old(layer: Layer, sm: Sm) -> flash_attention.Version:
    return flash_attention.of_layer(layer, sm, newest=False)


def _takes_all(layer: Layer, sm: Sm) -> str:
    return ""


def _rules_0_20(version: str) -> Version:
    rules = calls.Rules(
        version,
        "0.20.0",
        "0.6.8.post1",
        32,
        "-0.20.2",
        "",
        _CUTLASS_MLA,
        _OFF,
        _old,
        _takes_all,
        calls.flashinfer_kernels_0_20,
        flash_mla="vllm-0.20.2",
    )
    return Version(rules)


VERSIONS = {
    "0.33.0": Version(
        calls.Rules(
            "0.33.0", "0.33.0", "0.7.2.post1", 32, "", "vllm-0.33.0", _CUTLASS_MLA, _REMOVED, _new,
            flash_refusal, calls.flashinfer_kernels, flash_mla="vllm-0.33.0",
        ),
        newest=True,
    ),
    "0.20.2": _rules_0_20("0.20.2"),
    "0.20.1": _rules_0_20("0.20.1"),
    "0.20.0": _rules_0_20("0.20.0"),
    "0.10.2": Version(
        calls.Rules(
            "0.10.2", "0.10.2", "0.3.0", 16, "-0.10.2", "", "", _BY_ITSELF, old_selector.flash_attn_version,
            _takes_all, calls.flashinfer_kernels_0_10, chain=True,
        ),
    ),
}  # fmt: skip


def version_of(name: str | None) -> Version:
    """The rules of a version. Raises UsageError for one that was not read: it is not guessed."""
    found = VERSIONS.get(name or DEFAULT_VERSION)
    if found is None:
        raise UsageError(
            f"vLLM {name} is not modelled: each version's selector was read and recorded",
            hint=f"known are {', '.join(VERSIONS)}; wheels between them were asked, and choose otherwise",
        )
    return found


def choose(layer: Layer, gpu: Gpu, version: Version) -> Choice:
    """The backend. Raises UsageError for dtypes that vLLM refuses, and on AMD GPUs for older versions."""
    sm, name = (gpu.sm_major, gpu.sm_minor), version.rules.version
    if gpu.vendor != "nvidia":
        if version.rules.chain:
            raise UsageError(
                f"vLLM {name}'s choice on {gpu.name} is not modelled: its list for AMD GPUs is another",
                hint=f"give --engine-version {DEFAULT_VERSION}",
            )
        return rocm.choose(layer, sm, gpu.name, newest=version.newest)
    known = KV_DTYPES[name.rpartition(".")[0]]
    if layer.kv_dtype not in known:
        raise UsageError(
            f"vLLM {name} has no KV cache of dtype {layer.kv_dtype!r}", hint=f"known are {', '.join(known)}"
        )
    if layer.dtype == "bf16" and sm < (8, 0):
        raise UsageError(
            f"vLLM refuses bf16 on {gpu.name}: it needs compute capability 8.0", hint="give --dtype fp16"
        )
    return version.choose(version.configured(layer, sm), sm)


def reach(choice: Choice, layer: Layer, step: Step, gpu: Gpu, version: Version) -> Reached:
    """The call that the backend taken makes."""
    if choice.backend is None:
        return Reached((), why_not="vLLM ends with an error: no backend is valid")
    if step.drafts and (gpu.vendor != "nvidia" or not version.newest):
        where = f"vLLM {version.rules.version} on {gpu.name}"
        return Reached((), why_not=f"what {where} calls for the tokens of a draft model is not modelled")
    sm = (gpu.sm_major, gpu.sm_minor)
    if gpu.vendor != "nvidia" and not version.newest and (step.seqlen_q > 1 or choice.backend not in _READ):
        prompts = " for prompts" if choice.backend == "TRITON_MLA" else ""
        if choice.backend != "TRITON_ATTN":
            where = f"{choice.backend} of vLLM {version.rules.version}"
            return Reached((), why_not=f"what {where} calls on AMD GPUs{prompts} is not modelled")
    if gpu.vendor != "nvidia":
        return amd_calls.reach(choice.backend, layer, step, sm, version.rules)
    make = mla_calls.reach_mla if layer.mla else calls.reach
    configured = version.configured(layer, sm)
    reached = make(choice.backend, configured, step, sm, version.rules)
    if configured.block_size == layer.block_size:
        return reached
    pages = Note(
        "pages", f"of {configured.block_size}", "vLLM sets them for the backend, whatever is asked for"
    )
    return replace(reached, notes=(pages, *reached.notes))
