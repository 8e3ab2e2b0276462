"""Records FlashAttention as builds from the Hugging Face hub bring it, which ``kernels.get_kernel`` loads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths
from attnprof.instrument.engines.flash_attn_forks import read
from attnprof.instrument.recorder import Recorder

_FUNCTIONS = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
_LIBRARY = "hub kernel"


def patch(recorder: Recorder, kernels: Any) -> Callable[[], None]:
    """Makes what ``get_kernel`` returns record its calls; returns what puts it back."""
    original, seen, undo = kernels.get_kernel, set[int](), list[Callable[[], None]]()

    @functools.wraps(original)
    def get_kernel(repo: Any, *args: Any, **kwargs: Any) -> Any:
        module = original(repo, *args, **kwargs)
        if id(module) not in seen:
            seen.add(id(module))
            undo.extend(
                entry_point.patch(recorder, module, name, _LIBRARY, functools.partial(_read, str(repo)))
                for name in _FUNCTIONS
                if callable(getattr(module, name, None))
            )
        return module

    kernels.get_kernel = get_kernel
    undo.append(lambda: setattr(kernels, "get_kernel", original))
    return entry_point.patch_all(undo)


def _read(repo: str, lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    library, entry, made = read(_LIBRARY, lengths, given)
    return library, entry, {**made, "build": repo}
