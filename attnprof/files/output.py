"""The one writer of what a user names: whole or not at all, and nobody else's.

A file or folder is made under a name that nobody can guess, beside its target, and takes its name when it is
whole and on the disk. What has the name already is replaced only where that is asked for, and only a regular
file or a folder of exactly what was written before; at that moment nothing else may have taken its place.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attnprof.errors import UsageError
from attnprof.files.durable import exchange, rename_to_free_name, sync, sync_entry

_KINDS = {
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder",
}  # fmt: skip
_ANOTHER = "give another name"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
_Found = os.stat_result | None


@contextmanager
def writing_file(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> Iterator[BinaryIO]:
    """A file to write bytes to, which is called ``path`` after the block. ``force`` replaces a regular file.

    ``inputs`` are files that are read: none of them is replaced, whatever ``path`` calls it. Raises
    UsageError where ``path`` is taken, cannot be written, or is taken by somebody else in the meantime.
    """
    with writing_named(path, force=force, inputs=inputs) as unnamed, unnamed.open("r+b") as out:
        yield out


@contextmanager
def writing_named(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """As :func:`writing_file`, for what opens its file by name: an empty file under a name of its own."""
    with _told(path):
        replaced = _replaceable(path, force, inputs)
        if replaced is not None and not stat.S_ISREG(replaced.st_mode):
            raise _refused(path, replaced)
        unnamed = _unnamed(path)
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDWR
        descriptor = os.open(unnamed, flags, 0o666)
        try:
            if replaced is not None:
                os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
            os.close(descriptor)
            yield unnamed
            sync(unnamed)
            _name(unnamed, path, replaced)
            sync_entry(path.absolute().parent)
        finally:
            for left in unnamed.parent.glob(f"{unnamed.name}*"):  # SQLite's journal is beside its database
                left.unlink(missing_ok=True)


@contextmanager
def writing_folder(
    path: Path, names: Iterable[str], *, force: bool, inputs: Iterable[Path] = ()
) -> Iterator[Path]:
    """A folder to make files called ``names`` in, which is called ``path`` after the block.

    ``force`` replaces a folder that holds these regular files and nothing else, or nothing.
    """
    with _told(path):
        known, given = frozenset(names), [*inputs]
        replaced = _replaceable(path, force, given)
        if replaced is not None:
            if not stat.S_ISDIR(replaced.st_mode):
                raise _refused(path, replaced)
            _require_ours(path, known, given)
        unnamed = _unnamed(path)
        unnamed.mkdir(mode=0o777 if replaced is None else stat.S_IMODE(replaced.st_mode) | 0o700)
        try:
            yield unnamed
            sync(unnamed)
            _name(unnamed, path, replaced)
            sync_entry(path.absolute().parent)
        finally:
            _remove_ours(unnamed, known, path)


def _replaceable(path: Path, force: bool, inputs: Iterable[Path]) -> _Found:
    """What is called ``path`` now, where it may be replaced; None where nothing is."""
    if path.name in ("", ".."):
        raise UsageError(f"{path} is no name for what is written", hint=_ANOTHER)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} cannot be a name: {error}", hint=_ANOTHER) from error
    for one in inputs:
        with suppress(OSError, ValueError):
            if os.path.samestat(one.stat(), path.stat()):
                raise UsageError(f"{path} is what is read: it is not replaced", hint=_ANOTHER)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise _refused(path, found)
    if not force:
        raise UsageError(f"{path} exists already", hint="give another name with -o, or -f to replace it")
    return found


def _refused(path: Path, found: os.stat_result) -> UsageError:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a file")
    return UsageError(f"{path} is {kind}: it is not replaced", hint=_ANOTHER)


def _require_ours(path: Path, names: frozenset[str], inputs: Iterable[Path]) -> None:
    """Raises UsageError where the folder holds anything but all of these files, and is not empty."""
    with os.scandir(path) as entries:
        found = [(entry.name, entry.is_file(follow_symlinks=False)) for entry in entries]
    strange = sorted(name for name, regular in found if name not in names or not regular)
    if strange:
        raise UsageError(f"{path} holds other files ({strange[0]}): it is not replaced", hint=_ANOTHER)
    if found and len(found) < len(names):
        raise UsageError(f"{path} is no whole export: it is not replaced", hint=_ANOTHER)
    for name, _ in found:
        _replaceable(path / name, True, inputs)


def _unnamed(path: Path) -> Path:
    return path.with_name(f".attnprof-{secrets.token_hex(12)}.part")


def _name(unnamed: Path, path: Path, replaced: _Found) -> None:
    """Gives what is whole its name. Raises UsageError where another took or replaced it meanwhile."""
    taken = UsageError(f"{path} was written by another meanwhile, and is left as it is", hint=_ANOTHER)
    if replaced is None:
        try:
            if unnamed.is_dir():
                rename_to_free_name(unnamed, path)
            else:
                _link(unnamed, path)
        except (FileExistsError, NotADirectoryError) as error:
            raise taken from error
        return
    if exchange(unnamed, path):
        if _same(unnamed.lstat(), replaced):
            return
        exchange(unnamed, path)
        raise taken
    # No swap on this file system: what stands there is looked at first.
    if not os.path.lexists(path) or not _same(path.lstat(), replaced):
        raise taken
    if unnamed.is_dir():
        for file in sorted(unnamed.iterdir()):
            file.replace(path / file.name)
    else:
        unnamed.replace(path)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is the same file or folder, unchanged: numbers of inodes are given again."""
    fields = ("st_dev", "st_ino", "st_mtime_ns", "st_size")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def _link(unnamed: Path, path: Path) -> None:
    """A second name, which fails where there is such a name; the first is removed with what is left."""
    try:
        os.link(unnamed, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        rename_to_free_name(unnamed, path)


def _remove_ours(folder: Path, names: frozenset[str], target: Path) -> None:
    """Removes our files of what is left; whatever came in between goes back to where it was put."""
    if not folder.exists():
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for entry in folder.iterdir():
        with suppress(OSError):
            rename_to_free_name(entry, target / entry.name)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk says becomes one UsageError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__module__ != "sqlite3":
            raise
        raise UsageError(f"cannot write {path}: {error}") from error
