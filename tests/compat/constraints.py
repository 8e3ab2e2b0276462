"""Makes constraints.txt: one set of versions for Python 3.10 to 3.14, and a torch that may stay."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from tests.compat.environments import PYTHONS

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "constraints.txt"
_HEAD = """\
# The versions that the README's commands install. Made by: nox -s constraints
# torch is bounded, not pinned: one that is installed already, such as a CPU build, stays. What torch alone
# brings (CUDA, triton) is pinned by torch itself.
"""
_OWN = {
    "typer<0.29": "it imports pydantic, a tenth of a second of each command"
}  # our wishes beside the newest
_LEFT_OUT = re.compile(r"(nvidia-|cuda-|triton==|pip==|setuptools==)")
_TORCH = re.compile(r"torch==(\S+)(.*)")


def write_constraints() -> None:
    """Resolves the newest versions that go together, and writes them."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as own:
        own.write("\n".join(_OWN))
        own.flush()
        command = [
            *("uv", "pip", "compile", "--quiet", "--universal", f"--python-version={PYTHONS[0]}"),
            *("--upgrade", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--extra=test", "--extra=docs", f"--constraints={own.name}", str(ROOT / "pyproject.toml")),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    TARGET.write_text(_HEAD + "".join(f"{line}\n" for line in kept(done.stdout.splitlines())))


def kept(lines: list[str]) -> list[str]:
    """The lines of a resolution that go into the file."""
    return [
        _TORCH.sub(r"torch<=\1\2", line)
        for line in lines
        if line and not line.startswith("#") and not _LEFT_OUT.match(line)
    ]
