"""The Python files of a wheel, read over HTTP by range where the wheel is too large to download.

``python wheel_parts.py REQUIREMENT FOLDER PREFIX...`` puts the ``.py`` files below the prefixes into FOLDER.
Which file that is pip says, with the index that it is configured for.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
import zipfile

_BUFFER = 1 << 20


class _Remote(io.RawIOBase):
    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as head:
            self._size = int(head.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        asked = {"Range": f"bytes={self._at}-{self._at + count - 1}"}
        with urllib.request.urlopen(urllib.request.Request(self._url, headers=asked), timeout=60) as answer:
            got = answer.read()
        buffer[: len(got)] = got
        self._at += len(got)
        return len(got)


def main(requirement: str, folder: str, *prefixes: str) -> None:
    """Raises where there is no index, or no such wheel."""
    asked = ("install", "--pre", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
    told = subprocess.run(
        [sys.executable, "-m", "pip", *asked, requirement],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    url = json.loads(told)["install"][0]["download_info"]["url"]
    with zipfile.ZipFile(io.BufferedReader(_Remote(url), _BUFFER)) as wheel:
        for member in sorted(wheel.infolist(), key=lambda one: one.header_offset):
            if member.filename.endswith(".py") and member.filename.startswith(prefixes):
                wheel.extract(member, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
