"""attnprof: which attention kernel ran, why that one, and when will it change.

``load(run)`` opens a recorded run or a trace file; ``predict(call, gpu)`` says what a library would launch;
``with record(name) as run:`` records a part of a program.
"""

from __future__ import annotations

from attnprof.version import __version__

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from attnprof.dispatch import predict
    from attnprof.inside.recording import record
    from attnprof.model import AttentionCall
    from attnprof.runs.run import Run, load

__all__ = ["AttentionCall", "Run", "__version__", "load", "predict", "record"]

_HOME = {
    "predict": "attnprof.dispatch",
    "AttentionCall": "attnprof.model",
    "Run": "attnprof.runs.run",
    "load": "attnprof.runs.run",
    "record": "attnprof.inside.recording",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: ``import attnprof`` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'attnprof' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def load_ipython_extension(shell: Any) -> None:
    """What ``%load_ext attnprof`` calls: brings the cell magic ``%%attnprof``."""
    from attnprof.inside.notebook import load

    load(shell)
