"""One function for every library: which module predicts which."""

from __future__ import annotations

from types import ModuleType

from attnprof.dispatch import flash_attn2, flash_attn3, torch_sdpa, vllm_flash_attn
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

_MODULES: dict[str, ModuleType] = {
    "flash_attn": flash_attn2,
    "flash_attn_3": flash_attn3,
    "torch": torch_sdpa,
    "vllm_flash_attn": vllm_flash_attn,
}


def _module(library: str) -> ModuleType:
    if library not in _MODULES:
        raise UsageError(
            f"attention library {library!r} is not modelled", hint=f"modelled: {', '.join(sorted(_MODULES))}"
        )
    return _MODULES[library]


def default_version(library: str) -> str:
    """The version predicted for where none is given or installed."""
    version: str = _module(library).DEFAULT_VERSION
    return version


def rules_known(library: str, version: str) -> bool:
    """Whether this version of a modelled library can be predicted."""
    try:
        _module(library).rules_for(version)
    except UsageError:
        return False
    return True


def predict(
    call: AttentionCall, gpu: Gpu, version: str | None = None, *, explain: bool = False
) -> Prediction:
    """What ``call.library`` launches for ``call`` on ``gpu``.

    Raises UsageError for a library or version whose rules are not known.
    """
    module = _module(call.library)
    prediction: Prediction = module.predict(call, gpu, version or module.DEFAULT_VERSION, explain=explain)
    return prediction
