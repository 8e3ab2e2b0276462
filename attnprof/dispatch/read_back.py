"""The way back for every modelled library: from the launches of one call to the calls that make them."""

from __future__ import annotations

from functools import lru_cache, partial
from types import ModuleType

from attnprof.dispatch import flash_attn2, torch_sdpa, vllm_flash_attn
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn2 import read_back as flash_attn2_launches
from attnprof.dispatch.flash_attn2.dispatch import dispatch
from attnprof.dispatch.flash_attn2.read_back import Build
from attnprof.dispatch.flash_attn2.rules import Rules
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Gpu, Library, Prediction


@lru_cache(maxsize=4096)
def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call for which a known release launches exactly ``seen``; None of other kernels."""
    if parse_kernel_name(seen.main.kernel).modelled:
        return flash_attn2_launches.read_back(seen, gpu, builds())
    return None


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """The releases with FlashAttention-2's kernels, by what they launch."""
    rules = vllm_flash_attn.fa2_rules()
    fork = Build("vllm_flash_attn", ("fa2", "fa2"), rules, vllm_flash_attn.predict_fa2)
    return (*_releases("flash_attn", flash_attn2), *_releases("torch", torch_sdpa), fork)


def _releases(library: Library, module: ModuleType) -> list[Build]:
    """The builds of a library's version table, oldest first."""
    found: list[Build] = []
    since = [module.OLDEST, *(version for version, _ in module._CHANGES)]
    since = [version for version in since if parse_version(version) <= parse_version(module.NEWEST)]
    for version in dict.fromkeys(since):
        rules = module.rules_for(version)
        if found and found[-1].rules == rules:
            continue
        if found:
            found[-1] = Build(library, (found[-1].versions[0], version), found[-1].rules, found[-1].predict)
        found.append(Build(library, (version, module.NEWEST), rules, partial(_launch, rules=rules)))
    return found


def _launch(call: AttentionCall, gpu: Gpu, *, rules: Rules) -> Prediction:
    return dispatch(call, gpu, rules)
