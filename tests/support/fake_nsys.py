"""Stand-ins for an nsys that misbehaves: small programs that do what real ones were seen to do.

Seen with nsys 2022.4.2, unless a test names another source.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

# What every stand-in begins with: an export that works; $out, $folder and $scratch as the real one gets them;
# "program": a recorded program that ends at once with code $1; "linger" never ends, and starts no process.
_HEAD = """#!/bin/sh
[ "$1" = --version ] && { echo "NVIDIA Nsight Systems version 2022.4.2.1-df9881f"; exit 0; }
if [ "$1" = export ]; then
    for a; do
        case $a in --output=*) out=${a#--output=};; esac
        [ "$before" = --output ] && out=$a
        before=$a
    done
    EXPORT
fi
for a; do case $a in --output=*) out=${a#--output=};; esac; done
folder=$(dirname "$(dirname "$out")")
scratch=$TMPDIR
linger() { mkfifo "$scratch/fifo"; read _ <> "$scratch/fifo"; }
program() { sh -c 'echo $$ > "$0/child.pid"; exit $1' "$folder" "${1:-0}"; }
"""
EXPORTS = 'cp WHOLE "$out"; exit 0'


def whole_export(path: Path) -> Path:
    """The least that an export holds when it was written to its end."""
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE StringIds (id INTEGER, value TEXT); CREATE TABLE META_DATA_EXPORT (name)")
    db.close()
    return path


def fake_nsys(folder: Path, profile: str, *, export: str = EXPORTS) -> Path:
    """An nsys whose "profile" and "export" are these lines of sh; WHOLE in them is a whole export."""
    whole = whole_export(folder / "whole.sqlite")
    path = folder / "target-linux-x64" / "nsys"
    path.parent.mkdir(exist_ok=True)
    path.write_text((_HEAD.replace("EXPORT", export) + profile).replace("WHOLE", str(whole)))
    path.chmod(0o755)
    return path


def fake_importer(folder: Path, script: str) -> Path:
    """A QdstrmImporter beside the nsys of ``fake_nsys``: $2 is the stream, $4 the report."""
    path = folder / "host-linux-x64" / "QdstrmImporter"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
