"""The GPU and what torch.compile made of it, as the workload's own process sees them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from attnprof.gpus import make_gpu
from attnprof.machine.library_versions import package_versions

COMPILED_NOTE = "torch.compile made"  # begins the sentence that it did


def silent_nvtx() -> str | None:
    """The version of the package nvtx where the program uses it and the recorder hears nothing of it."""
    package = sys.modules.get("nvtx")
    if package is None or type(package.get_domain("attnprof")).__name__ != "DummyDomain":
        return None
    return next(iter(package_versions("nvtx")), "")


def gpu() -> dict[str, Any] | None:
    """The current CUDA device's properties; None if this process did not use one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    # Not every torch tells the shared memory; then it follows from the compute capability.
    known = asdict(make_gpu(device.name, device.major, device.minor, device.multi_processor_count))
    told = {
        "smem_per_sm": getattr(device, "shared_memory_per_multiprocessor", None),
        "smem_per_block_optin": getattr(device, "shared_memory_per_block_optin", None),
    }
    return known | {name: value for name, value in told.items() if value}


def compiled_note() -> str:
    """A sentence where torch.compile made graphs in this process: attention inside them runs no Python."""
    # vLLM cuts its attention out of what it compiles: an operator that is Python's, and recorded.
    if "torch._dynamo.utils" not in sys.modules or "vllm.compilation" in sys.modules:
        return ""
    counters: Any = sys.modules["torch._dynamo.utils"].counters
    graphs = int(counters["stats"].get("unique_graphs", 0))
    if not graphs:
        return ""
    made = "1 graph" if graphs == 1 else f"{graphs} graphs"
    return f"{COMPILED_NOTE} {made}: attention calls inside run no Python: see --capture torch --shapes"
