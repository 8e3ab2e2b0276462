"""Which vllm wheels decide about attention by the same Python files, byte for byte.

    python benchmarks/compare_vllm_wheels.py FOLDER… --out tests/data/golden/vllm_wheels.csv

A folder is an unpacked wheel, its Python files and its METADATA. A row: the version, the flashinfer-python
and torch that it requires, and a digest of the files that the rules of attnprof name as their sources.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
from pathlib import Path

PLACES = (
    "platforms/cuda.py", "platforms/interface.py", "v1/attention/selector.py", "v1/attention/backend.py",
    "v1/attention/backends", "vllm_flash_attn", "utils/flashinfer.py", "config/attention.py",
    "config/cache.py", "model_executor/layers/attention", "attention/utils/fa_utils.py",
    "attention/selector.py",
)  # fmt: skip
_REQUIRED = re.compile(r"^Requires-Dist: (flashinfer-python|torch)==([\w.]+)", re.MULTILINE)
_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)


def digest(package: Path) -> str:
    """Of the files in PLACES that the package has, their names among it."""
    found = hashlib.sha256()
    for place in PLACES:
        root = package / place
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root] if root.exists() else []:
            found.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def row(folder: Path) -> dict[str, str]:
    """The row of one wheel."""
    told = next(folder.glob("vllm-*.dist-info/METADATA")).read_text()
    version = _VERSION.search(told)
    assert version is not None
    required = dict(_REQUIRED.findall(told))
    return {
        "version": version[1], "flashinfer": required.get("flashinfer-python", ""),
        "torch": required.get("torch", ""), "digest": digest(folder / "vllm"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = sorted(map(row, options.folders), key=lambda one: [int(n) for n in one["version"].split(".")])
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
