"""Registers and shared memory of released attention kernels, as their binaries state them.

``kernel_resources.jsonl.gz``, beside this file, is read by cuobjdump out of released builds
(``python -m benchmarks.kernel_resources``), never computed: a line per build, then one per kernel template.
A build holds machine code for some architectures; where none of them runs on a GPU, the driver compiles the
kernel there, and nothing is known before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from attnprof.dispatch.libraries import template_fields
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.model import Gpu

TABLE = "kernel_resources.jsonl.gz"
Stated = tuple[tuple[int, int] | None, ...]  # registers and static shared memory, per architecture
_ALONE = ((8, 7), (11, 0))  # of Jetson boards: run no machine code but their own


@dataclass(frozen=True, slots=True)
class Resources:
    """Registers a thread, and static shared memory of a block in bytes, without what the driver reserves.

    ``source`` names the build that was read, and ``arch`` whose machine code runs.
    """

    registers: int
    static_smem: int
    arch: str
    source: str


@dataclass(frozen=True, slots=True)
class Build:
    """A released binary: ``versions`` are those by which attnprof calls it, the first its own.

    ``built_for`` is the local part of its version (``cu130``), "" where it has none.  ``kernels``: template
    to (registers, static shared memory) of each of ``archs``, None where it has no such machine code.
    """

    library: str
    versions: tuple[str, ...]
    built_for: str
    source: str
    archs: tuple[str, ...]
    kernels: Mapping[str, Stated]


@lru_cache(maxsize=4096)
def resources_of(kernel: str, gpu: Gpu, library: str, version: str) -> Resources | None:
    """What the released build of a library's version says of a kernel on a GPU; None where it says nothing.

    ``version`` may have a local part; without one, the build that the package index has is meant.
    """
    key = template_key(kernel) if gpu.vendor == "nvidia" else None
    released, _, local = version.partition("+")
    for build in builds():
        meant = build.library == library and released in build.versions and local in ("", build.built_for)
        stated = build.kernels.get(key) if meant and key else None
        arch = runs_on(build.archs, (gpu.sm_major, gpu.sm_minor))
        found = stated[build.archs.index(arch)] if stated and arch else None
        if found and arch:
            return Resources(*found, arch, build.source)
    return None


def runs_on(archs: tuple[str, ...], sm: tuple[int, int]) -> str | None:
    """Which of a binary's architectures a GPU runs: its own (``sm_90a`` too), else the next lower minor."""
    major, minor = sm
    own = [f"sm_{major}{minor}{suffix}" for suffix in ("a", "f", "")]
    lower = [] if sm in _ALONE else [f"sm_{major}{less}" for less in range(minor - 1, -1, -1)]
    return next((arch for arch in (*own, *lower) if arch in archs), None)


def template_key(kernel: str) -> str | None:
    """One spelling of a kernel's template for all spellings of its name; None where it cannot be read."""
    fields = template_fields(kernel)
    if fields is None:
        return None
    return " ".join([short_name(kernel), *(_written(value) for _, value in fields)])


def _written(value: object) -> str:
    return "-" if value is None else str(int(value) if isinstance(value, bool) else value)


class _Kernels(Mapping[str, Stated]):
    """The kernels of a build, of which each line is read when it is asked for: most questions are of one."""

    def __init__(self, lines: str) -> None:
        self._lines = lines  # each after a line end

    def __getitem__(self, key: str) -> Stated:
        begins = f"\n[{json.dumps(key)},"
        at = self._lines.find(begins)
        if at < 0:
            raise KeyError(key)
        return self._read(self._lines[at + 1 :].partition("\n")[0])[1]

    def __iter__(self) -> Iterator[str]:
        return (self._read(line)[0] for line in self._lines.split("\n")[1:])

    def __len__(self) -> int:
        return self._lines.count("\n")

    @staticmethod
    def _read(line: str) -> tuple[str, Stated]:
        key, *stated = json.loads(line)
        return key, tuple(None if one is None else (one[0], one[1]) for one in stated)


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """Every build of the table."""
    table = files("attnprof.analysis").joinpath(TABLE)
    text = gzip.decompress(table.read_bytes()).decode().rstrip("\n")
    found: list[Build] = []
    for part in text.removeprefix("{").split("\n{"):
        head, end, lines = part.partition("\n")
        row: Any = json.loads("{" + head)
        fixed = (row["library"], tuple(row["versions"]), row["built_for"], row["source"])
        found.append(Build(*fixed, tuple(row["archs"]), _Kernels(end + lines)))
    return tuple(found)
