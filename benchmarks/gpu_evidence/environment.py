"""What this machine is: GPU and libraries; nothing of the process's environment variables."""

from __future__ import annotations

from typing import Any

from attnprof.machine.library_versions import versions
from attnprof.model import Gpu
from attnprof.workloads import environment


def this_gpu() -> Gpu:
    """The current GPU as dispatch sees it."""
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]
    properties = environment.gpu()
    assert properties is not None
    return Gpu(**properties)


def describe() -> dict[str, Any]:
    """Versions and GPU facts, for evidence.json."""
    import torch

    gpu = this_gpu()
    return {
        "gpu": {name: getattr(gpu, name) for name in gpu.__slots__},
        "l2_bytes": torch.cuda.get_device_properties(0).L2_cache_size,
        **versions(),
    }
