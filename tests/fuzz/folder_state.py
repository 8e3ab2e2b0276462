"""What stands in a folder, to see whether it changed."""

from __future__ import annotations

import hashlib
from pathlib import Path


def state(folder: Path) -> list[tuple[str, int, str]]:
    """Every entry below a folder: its path, mode and content."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        regular = path.is_file() and not path.is_symlink()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if regular else ""
        found.append((str(path.relative_to(folder)), status.st_mode, content))
    return found
