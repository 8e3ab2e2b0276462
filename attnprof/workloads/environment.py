"""Versions and the GPU, as the workload's own process sees them."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from typing import Any

from attnprof.gpus import make_gpu
from attnprof.machine.library_versions import find_flash_attention_3, installed_version, package_versions

_PACKAGES = ("transformers", "nvtx", "kernels")


def versions() -> dict[str, str | None]:
    """Installed versions by import name, None where absent; torch's with its build tag.

    ``flash_attn_3`` is the version of the repository that its interface has, ``flash_attn_3_package`` what
    the package calls itself.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    torch = sys.modules.get("torch")
    found["torch"] = str(torch.__version__) if torch else installed_version("torch")
    found["cuda"] = torch.version.cuda if torch else None
    found |= {package: next(iter(package_versions(package)), None) for package in _PACKAGES}
    flash_attention_3 = find_flash_attention_3()
    found["flash_attn"] = installed_version("flash_attn")
    found["flash_attn_3"] = flash_attention_3.version if flash_attention_3 else None
    found["flash_attn_3_package"] = flash_attention_3.package if flash_attention_3 else None
    return found


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


def compiled_graphs() -> int:
    """Graphs that torch.compile made in this process: attention inside them runs no Python."""
    if "torch._dynamo.utils" not in sys.modules:
        return 0
    counters: Any = sys.modules["torch._dynamo.utils"].counters
    return int(counters["stats"].get("unique_graphs", 0))
