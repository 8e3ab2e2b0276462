"""Reads registers and shared memory of attention kernels out of released builds: the table of occupancy.

    python -m benchmarks.kernel_resources BUILD… [--out FILE]

A BUILD is ``library:versions:built_for:source:FILE.so``, versions comma-separated, the build's own first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import attnprof.analysis.kernel_resources as table
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from benchmarks.flash_attn_kernels import Used, kernel_resources

# From sm_90 on, the 1,024 bytes that the driver reserves count as static where a kernel uses shared memory.
_RESERVED, _COUNTED_FROM = 1024, 90
Read = dict[str, dict[str, tuple[int, int]]]


def read_build(library: Path) -> tuple[tuple[str, ...], Read]:
    """Architectures, and what each forward kernel that can be read uses on each.

    Raises ValueError where two kernels that read alike differ: then the template says too little.
    """
    found: Read = defaultdict(dict)
    for (arch, name), used in kernel_resources(library).items():
        role = parse_kernel_name(name).role
        key = table.template_key(name) if role in ("main", "combine") else None
        if key is None:
            continue
        stated = _stated(arch, used)
        if found[key].setdefault(arch, stated) != stated:
            raise ValueError(f"{key} on {arch} is {stated} and {found[key][arch]}")
    archs = sorted({arch for kernel in found.values() for arch in kernel})
    return tuple(archs), found


def _stated(arch: str, used: Used) -> tuple[int, int]:
    registers, static = used
    number = int("".join(filter(str.isdigit, arch)))
    return registers, static - _RESERVED if number >= _COUNTED_FROM and static >= _RESERVED else static


def rows(build: str) -> Iterator[object]:
    """The lines of one build."""
    library, versions, built_for, source, file = build.split(":", 4)
    archs, found = read_build(Path(file))
    # Kernels of FlashAttention-2 are empty below sm_80.
    kept = tuple(arch for arch in archs if arch != "sm_75")
    about = {"library": library, "versions": versions.split(","), "built_for": built_for, "source": source}
    yield {**about, "archs": kept}
    for key in sorted(found):
        yield [key, *(found[key].get(arch) for arch in kept)]


def main() -> int:
    """Writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_resources", description=__doc__)
    parser.add_argument("builds", nargs="+", metavar="BUILD")
    parser.add_argument("--out", type=Path, default=Path(table.__file__).with_name(table.TABLE))
    options = parser.parse_args()
    lines = [json.dumps(row, separators=(",", ":")) for build in options.builds for row in rows(build)]
    text = "\n".join(lines) + "\n"
    options.out.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(lines):,} lines in {options.out.stat().st_size:,} bytes: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
