"""Packed traces and the temporary files that reading some formats needs."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from attnprof.errors import TraceError

_ALWAYS = 64 << 20  # bytes that any file may unpack to
_MOST = 200  # times its size; traces pack to a tenth or a fiftieth, nothing but repetition to a thousandth


class _Bounded(gzip.GzipFile):
    """A gzip file that ends in TraceError where it unpacks to far more than a trace would."""

    def __init__(self, path: Path, packed: IO[bytes]) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._path, self._packed = path, packed

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, part: bytes) -> bytes:
        if self.tell() > _ALWAYS and self.tell() > _MOST * self._packed.tell():
            raise TraceError(
                f"{self._path} unpacks to more than {_MOST} times its size, as no trace does",
                hint="it holds nothing but repetition: copy or export it again",
            )
        return part


@contextmanager
def unpacking(path: Path) -> Iterator[Any]:
    """A gzip file's content as a binary file. Raises TraceError where it is damaged or cannot be read."""
    try:
        with path.open("rb") as packed, _Bounded(path, packed) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(
            f"{path} is a broken gzip file: {error}", hint="copy or download it again"
        ) from error


def unpacked_head(path: Path, size: int) -> bytes:
    """The first bytes of what a gzip file holds. Raises TraceError where it holds none."""
    with readable(path), unpacking(path) as file:
        head: bytes = file.read(size)
    if not head:
        raise TraceError(f"{path} is empty once unpacked", hint="copy or download it again")
    return head


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A copy of what a gzip file holds, in a folder of its own that goes away."""
    with temporary_folder(path) as folder:
        plain = folder / "trace.sqlite"
        with temporary_errors(path), unpacking(path) as file, plain.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
        yield plain


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """TraceError where a file cannot be read: gone, forbidden, on a disk that fails."""
    try:
        yield
    except FileNotFoundError:
        raise TraceError(f"{path} does not exist", hint="check the path") from None
    except OSError as error:
        raise TraceError(
            f"{path} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder for what reading ``path`` needs, which goes away. Raises TraceError where none can be made."""
    with temporary_errors(path):
        folder = tempfile.TemporaryDirectory(prefix="attnprof-")
    with folder as name:
        yield Path(name)


@contextmanager
def temporary_errors(path: Path) -> Iterator[None]:
    """TraceError where a temporary file cannot be written: a full disk, no folder for such files."""
    try:
        yield
    except OSError as error:
        raise TraceError(
            f"reading {path} needs a temporary file, which cannot be written: {error.strerror or error}",
            hint="make room, or name a folder with room in TMPDIR",
        ) from error
