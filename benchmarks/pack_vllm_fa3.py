"""Puts vLLM's FlashAttention-3 into the folder of packages, small enough to be carried.

    pip download --no-deps vllm==0.33.0
    python -m benchmarks.pack_vllm_fa3 vllm-0.33.0-….whl --out packages/

``_vllm_fa3_C.abi3.so`` has 165 MiB, of which xz leaves 11: what is written is the compressed file. Loading it
needs torch and no GPU, no vLLM and none of its Python: ``--check`` unpacks it again and lists its operators.
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

MEMBER = "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"
PACKED = "_vllm_fa3_C.abi3.so.xz"
_PRESET = 6


def pack(wheel: Path, out: Path) -> Path:
    """The compressed extension in ``out``. Raises KeyError where the wheel has none."""
    out.mkdir(parents=True, exist_ok=True)
    packed = out / PACKED
    with (
        zipfile.ZipFile(wheel) as files,
        files.open(MEMBER) as extension,
        lzma.open(packed, "wb", preset=_PRESET) as written,
    ):
        shutil.copyfileobj(extension, written)
    return packed


def unpack(packages: Path, into: Path) -> Path | None:
    """The extension unpacked into a folder; None where there is none among the packages."""
    packed = packages / PACKED
    if not packed.exists():
        return None
    extension = into / PACKED.removesuffix(".xz")
    with lzma.open(packed) as read, extension.open("wb") as written:
        shutil.copyfileobj(read, written)
    return extension


def check(packages: Path) -> int:
    """Loads what was packed in a process of its own; 0 where its operator is there."""
    with tempfile.TemporaryDirectory() as folder:
        extension = unpack(packages, Path(folder))
        load = (
            f"import torch; torch.ops.load_library({str(extension)!r}); "
            "print(torch.__version__, torch.ops._vllm_fa3_C.fwd.default._schema.name)"
        )
        done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
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
