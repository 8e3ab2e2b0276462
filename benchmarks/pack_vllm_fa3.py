"""Puts vLLM's FlashAttention-3 into the folder of packages, small enough to be carried.

    pip download --no-deps vllm==0.33.0
    python -m benchmarks.pack_vllm_fa3 vllm-0.33.0-….whl --out packages/

``_vllm_fa3_C.abi3.so`` has 165 MiB, of which xz leaves 11: what is written is the compressed file, and the
wheel's flash_attn_interface.py beside it. Loading it needs torch, no GPU and nothing else of vLLM: with
``--check`` it is unpacked again and its operator named.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "vllm_flash_attn"
INTERFACE = "flash_attn_interface.py"
MEMBER = f"vllm/{PACKAGE}/_vllm_fa3_C.abi3.so"
PACKED = "_vllm_fa3_C.abi3.so.xz"
_PRESET = 6


def pack(wheel: Path, out: Path) -> Path:
    """The compressed extension in ``out/vllm_flash_attn``. Raises KeyError where the wheel has none."""
    folder = out / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / PACKED
    with (
        zipfile.ZipFile(wheel) as files,
        files.open(MEMBER) as extension,
        lzma.open(packed, "wb", preset=_PRESET) as written,
    ):
        shutil.copyfileobj(extension, written)
        (folder / INTERFACE).write_bytes(files.read(f"vllm/{PACKAGE}/{INTERFACE}"))
    return packed


def unpack(packages: Path, into: Path) -> Path | None:
    """The package with its extension, unpacked into a folder; None where it is not among the packages."""
    packed = packages / PACKAGE / PACKED
    if not packed.exists():
        return None
    package = into / PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(packages / PACKAGE / INTERFACE, package)
    with lzma.open(packed) as read, (package / PACKED.removesuffix(".xz")).open("wb") as written:
        shutil.copyfileobj(read, written)
    return package


def check(packages: Path) -> int:
    """Loads what was packed in a process of its own; 0 where its operator is there."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(packages, Path(folder))
        load = (
            f"import torch, {PACKAGE}.flash_attn_interface as interface; "
            "assert interface.FA3_AVAILABLE, interface.FA3_UNAVAILABLE_REASON; "
            "print(torch.__version__, torch.ops._vllm_fa3_C.fwd.default._schema.name)"
        )
        done = subprocess.run(
            [sys.executable, "-c", load], cwd=folder, capture_output=True, text=True, check=False
        )
    print(done.stdout.strip() or done.stderr.strip()[-1000:])
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """0: packed, and with ``--check`` loaded too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pack_vllm_fa3",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="load it with the torch of this Python")
    options = parser.parse_args(arguments)
    packed = pack(options.wheel, options.out)
    print(f"{packed}: {packed.stat().st_size / 2**20:.1f} MiB")
    return check(options.out) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
