"""Damage to what has several files: run folders and Parquet exports; and to the archives inside them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tests.fuzz.damage_bytes import ANY, Damage, damaged, flip_bytes, gzipped
from tests.fuzz.damage_json import JSON, LINES, TOML, TORCH, any_field, many_names
from tests.fuzz.damage_sqlite import MANY_NAMES, SQLITE
from tests.fuzz.dice import Dice
from tests.fuzz.hostile import NUMBERS, TEXTS, storable
from tests.fuzz.subjects import Files, Subject

_MANY_NAMES = 0.003  # a million names take seconds to write
# What stands where a file should, by the content that stands for it.
_SPECIAL = {f"\0{kind}".encode(): kind for kind in ("dir", "fifo", "loop", "dangling", "null", "zero")}


def damaged_subject(dice: Dice, subject: Subject) -> Subject:
    """One damaged version of a subject."""
    if subject.kind in ("run", "left", "parquet"):
        return replace(subject, files=_damaged_folder(dice, subject.files))
    content = subject.files[subject.target]
    if subject.kind in ("sqlite", "torch") and dice.chance(_MANY_NAMES):
        kinds: tuple[Damage, ...] = (MANY_NAMES,) if subject.kind == "sqlite" else (many_names,)
        return replace(subject, files={subject.target: kinds[0](dice, content)})
    content = damaged(dice, _kinds(subject.target), content)
    if subject.kind != "config" and dice.chance(0.1):
        dice.note("gzipped")
        content = gzipped(dice, content)
    files = {subject.target: content}
    if subject.kind == "sqlite" and dice.chance(0.05):
        ending = dice.pick(("-wal", "-journal", "-shm"))
        dice.note(f"with {ending}")
        files[subject.target + ending] = dice.pick(
            (b"", b"x" * 32, content[:5000], b"\x37\x7f\x06\x82" + content[:9000])
        )
    return replace(subject, files=files)


def _kinds(name: str) -> tuple[Damage, ...]:
    """The kinds of damage that a file's name asks for."""
    if name.endswith(".json") and "/" not in name:
        return TORCH
    endings = {
        ".sqlite": SQLITE, ".db": SQLITE, ".npz": NPZ, ".json": JSON, ".jsonl": LINES, ".toml": TOML,
        ".parquet": PARQUET,
    }  # fmt: skip
    return endings.get(PurePosixPath(name).suffix, ANY)


def _damaged_folder(dice: Dice, files: Files) -> Files:
    """One or two of the files damaged, gone, exchanged, or something that is no file."""
    changed = dict(files)
    for _ in range(dice.pick((1, 1, 2))):
        name = dice.pick(sorted(changed) or [""])
        if not name:
            break
        dice.note(name)
        how = dice.below(20)
        if how == 0:
            dice.note("gone")
            del changed[name]
        elif how == 1:
            other = dice.pick(sorted(changed))
            dice.note(f"exchanged with {other}")
            changed[name], changed[other] = changed[other], changed[name]
        elif how == 2:
            changed[name] = dice.pick(tuple(_SPECIAL))
            dice.note(_SPECIAL[changed[name]])
        elif how == 3:
            dice.note("empty")
            changed[name] = b""
        else:
            changed[name] = damaged(dice, _kinds(name), changed[name])
    return changed


def lay_out(files: Files, folder: Path) -> int:
    """Writes the files below a folder, some of which are no files; returns the bytes of the others."""
    size = 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        special = _SPECIAL.get(content)
        if special == "dir":
            path.mkdir()
        elif special == "fifo":
            os.mkfifo(path)
        elif special:
            targets = {
                "loop": path,
                "dangling": path.with_name("nowhere"),
                "null": "/dev/null",
                "zero": "/dev/zero",
            }
            path.symlink_to(targets[special])
        else:
            size += path.write_bytes(content)
    return size


def _unpacked(content: bytes) -> dict[str, bytes]:
    """The members; ValueError where earlier damage makes that no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception as error:  # zipfile promises no kinds
        raise ValueError("damaged before") from error


def _packed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def _array(members: dict[str, bytes], name: str) -> Any:
    try:
        return np.load(io.BytesIO(members[name]), allow_pickle=False)
    except Exception as error:  # as many kinds as in _unpacked
        raise ValueError("damaged before") from error


def _stored(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=values.dtype == object)
    return file.getvalue()


def npz_head(dice: Dice, content: bytes) -> bytes:
    """What the saved trace says of itself: texts, devices, shapes of constant columns."""
    try:
        members = _unpacked(content)
        head = json.loads(_array(members, "head.npy").tobytes())
        if dice.chance(0.3):
            head["strings"] = [dice.pick(TEXTS) for _ in head["strings"]]
        else:
            any_field(dice, head)
        members["head.npy"] = _stored(np.frombuffer(json.dumps(head).encode(), np.uint8))
        return _packed(members)
    except (ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, OSError):
        return flip_bytes(dice, content)


def npz_array(dice: Dice, content: bytes) -> bytes:
    """A column with other numbers, another shape or type, missing, or pickled."""
    try:
        members = _unpacked(content)
        name = dice.pick([name for name in members if name != "head.npy"])
        dice.note(name)
        values = _array(members, name)
        change = dice.below(8)
        if change == 0:
            del members[name]
        elif change == 1:
            members[name] = _stored(values[: len(values) // 2])
        elif change == 2:
            members[name] = _stored(values.astype(dice.pick(("f8", "i1", "U3", "u8", "c16", ">i4", "bool"))))
        elif change == 3:
            members[name] = _stored(np.array([{"a": 1}, None], dtype=object))
        elif change == 4:
            members[name] = _stored(values.reshape(*values.shape, 1))
        else:
            number = dice.pick([n for n in NUMBERS if isinstance(n, int)])
            changed = values.copy().astype(np.int64).reshape(-1)
            where = slice(None) if dice.chance(0.5) else slice(dice.below(len(changed) + 1), None)
            changed[where] = (number + 2**63) % 2**64 - 2**63
            members[name] = _stored(changed.astype(values.dtype).reshape(values.shape))
        packing = zipfile.ZIP_DEFLATED if dice.chance(0.05) else zipfile.ZIP_STORED
        return _packed(members, packing)
    except (ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, OSError):
        return flip_bytes(dice, content)


NPZ: tuple[Damage, ...] = (*ANY, npz_head, npz_head, npz_head, npz_array, npz_array, npz_array, npz_array)


def parquet_column(dice: Dice, content: bytes) -> bytes:
    """A column of another type, with nulls, other numbers or texts, or missing; or no row at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        at = dice.below(table.num_columns)
        dice.note(table.column_names[at])
        rows, number = (
            table.num_rows,
            dice.pick([n for n in NUMBERS if isinstance(n, int) and abs(n) < 2**63]),
        )
        texts = pa.array([storable(dice.pick(TEXTS)) for _ in range(rows)], pa.string())
        changed = dice.pick((
            None, pa.nulls(rows), pa.array([number] * rows, pa.int64()), pa.array([0.5] * rows), texts,
            pa.array([[1]] * rows), pa.array([b"\xff\x1b"] * rows), pa.array([True] * rows),
            pa.array(["x"] * rows).dictionary_encode(), pa.array([2**64 - 1] * rows, pa.uint64()),
        ))  # fmt: skip
        if changed is None:
            table = table.slice(0, 0) if dice.chance(0.5) else table.remove_column(at)
        else:
            table = table.set_column(at, table.column_names[at], changed)
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()
    except (pa.ArrowException, OSError, IndexError):
        return flip_bytes(dice, content)


PARQUET: tuple[Damage, ...] = (*ANY, parquet_column, parquet_column, parquet_column, parquet_column)
