"""flash_attn_3's golden data as calls, and an installed one without a kernel in it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from attnprof.gpus import make_gpu
from attnprof.model import AttentionCall, Gpu
from tests.conftest import golden_rows


def recorded_call(row: dict[str, Any]) -> tuple[AttentionCall, Gpu, str]:
    given = dict(row["call"])
    device, version = given.pop("device"), given.pop("version")
    window = (given.pop("window_left"), given.pop("window_right"))
    given["num_splits"] = given.pop("num_splits_arg", 0)
    assert given.keys() <= {field.name for field in fields(AttentionCall)}
    gpu = make_gpu(device["name"], device["sm_major"], device["sm_minor"], device["num_sms"])
    return AttentionCall(**given, window=window), gpu, version


def interface_state(commit: str) -> dict[str, Any]:
    """What is recorded of the interface of an upstream commit."""
    return next(row for row in golden_rows("fa3_interfaces.jsonl") if row["commit"] == commit)


def interface_source(row: dict[str, Any]) -> str:
    """A file that holds what the recorded state of flash_attn_interface.py holds, and nothing else."""
    lines = [f"import {module}" for module in row["imports"]]
    if row["torch_ops"]:
        lines.append(f"{row['extension']} = torch.ops.flash_attn_3")
    forward = f"{row['extension']}.fwd({', '.join(row['arguments'])})"
    lines += ["def _flash_attn_forward():", f"    return {forward}"]
    lines += [f"def flash_attn_func({', '.join(row['flash_attn_func'])}):", "    pass"]
    if row["lengths_of"]:
        lines += ["def kvcache():", f"    return torch.full(({row['lengths_of']}.shape[0],), cache_seqlens)"]
    return "\n".join(lines)


def install_flash_attn_3(site: Path, commit: str, package: str, version: str) -> Path:
    """Puts what a build of that commit installs into ``site``; returns its interface.

    Importing the interface raises RuntimeError.
    """
    site.mkdir(exist_ok=True)
    interface = site / "flash_attn_interface.py"
    interface.write_text(f"{interface_source(interface_state(commit))}\nraise RuntimeError('imported')\n")
    install_package(site, package, version)
    return interface


def install_package(site: Path, package: str, version: str) -> None:
    """Puts a distribution's metadata into ``site``, and nothing else."""
    folder = site / f"{package}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
