"""Finding Nsight Systems on this machine."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from attnprof.machine.configuration import setting

_PREFIXES = (  # where installers put it without touching PATH; the newest version wins within a line
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/*/nsys",
    "/usr/local/bin/nsys",
)
_WRITTEN_LAST = {"META_DATA_EXPORT", "EXPORT_META_DATA"}  # the table an export ends with, and its older name


def find_nsys(explicit: str | None = None) -> Path | None:
    """The nsys to run: ``explicit``, the configured one, on PATH or under the usual prefixes; else None.

    A name that was given is not replaced by another when it is not there.
    """
    known = setting("nsys")
    named = explicit or (known.value if known else None)
    if named:
        found = shutil.which(named)
        return Path(found) if found else None
    found = shutil.which("nsys")
    if found:
        return Path(found)
    for pattern in _PREFIXES:
        installed = [p for p in Path("/").glob(pattern[1:]) if os.access(p, os.X_OK)]
        if installed:
            return max(installed, key=lambda p: [int(n) for n in re.findall(r"\d+", str(p))])
    return None


def nsys_version(nsys: Path) -> str | None:
    """The version as nsys states it, "2022.4.2.1-df9881f"; None when it does not run."""
    try:
        done = subprocess.run([nsys, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    stated = re.search(r"\d{4}\.\d+[\w.-]*", done.stdout)
    return stated.group() if stated else None


def is_whole_export(path: Path) -> bool:
    """Whether an export was written to its end: one that was killed has a blank header, or no last table."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return bool(tables & _WRITTEN_LAST)


def find_importer(nsys: Path) -> Path | None:
    """QdstrmImporter, which turns a .qdstrm into a report, of the same installation."""
    target = nsys.resolve().parent
    hosts = (target.parent / "host-linux-x64", target.parent.parent / "host-linux-x64")
    packaged = [Path("/usr/lib/nsight-systems/host-linux-x64")] if target.is_relative_to("/usr/lib") else []
    beside = [*hosts, *packaged]  # one of another version reads nothing
    return next((p for host in beside if os.access(p := host / "QdstrmImporter", os.X_OK)), None)
