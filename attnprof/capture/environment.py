"""Environments around a recording: what a run keeps of its own, and keeping out what a recorder collects.

nsys reads the environment of every process it may look at, related to the recording or not, and stores it
with the command line of the recorded program.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from attnprof.safety.redact import hide_secrets

# Variables that change which kernel runs, or how fast: all that a run keeps of its environment.
_KEPT = frozenset({
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "LOCAL_RANK", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "RANK", "TOKENIZERS_PARALLELISM",
    "TORCHDYNAMO_DISABLE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE", "TRANSFORMERS_OFFLINE", "VLLM_ATTENTION_BACKEND", "VLLM_FLASH_ATTN_VERSION",
    "WORLD_SIZE",
})  # fmt: skip

_REMOVED = "(removed)"
_BLOCK = re.compile(r"\0[A-Za-z_]\w*=")  # NAME=VALUE joined by NUL
_ARGUMENT = "name LIKE '%ENVIRONMENT_VARIABLE%' OR name LIKE 'PROCESS%:ARGUMENT%'"
_COLUMN = re.compile(r'\s*"?(\w+)')
_REFERENCE = "REFERENCES StringIds(id)"  # in a comment behind a column, in nsys's own schema


def kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that a run records, without anything shaped like a secret."""
    return {name: hide_secrets(environment[name]) for name in sorted(_KEPT & environment.keys())}


def copy_without_environments(export: Path, target: Path) -> None:
    """Writes ``target``: an nsys SQLite export less every process environment and every argument.

    ``export`` is changed on the way; in ``target`` there is no free page with what was removed. Raises
    sqlite3.Error where the export is damaged or the disk is full.
    """
    with closing(sqlite3.connect(export)) as db:
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for pragma in ("journal_mode = off", "synchronous = off", "trusted_schema = off"):
            db.execute(f"PRAGMA {pragma}")
        tables = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        if "StringIds" in tables:
            _remove_texts(db, tables)
        if "TARGET_INFO_SYSTEM_ENV" in tables:
            db.execute("DELETE FROM TARGET_INFO_SYSTEM_ENV WHERE name LIKE '%environment%'")
        if "META_DATA_CAPTURE" in tables:
            db.execute(f"DELETE FROM META_DATA_CAPTURE WHERE {_ARGUMENT}")
        db.commit()
        db.execute("VACUUM INTO ?", (str(target),))


def _remove_texts(db: sqlite3.Connection, tables: Mapping[str, str]) -> None:
    """Takes the environments out of StringIds; one of a single variable is told by nothing naming it."""
    certain, doubtful = list[int](), list[int]()
    for number, text in db.execute("SELECT id, value FROM StringIds WHERE instr(value, '=')"):
        (certain if _BLOCK.search(str(text)) else doubtful).append(number)
    references = [(table, column) for table, sql in tables.items() for column in _referring(sql)]
    if doubtful and references:
        certain += _unreferenced(db, doubtful, references)
    db.executemany(f"UPDATE StringIds SET value = '{_REMOVED}' WHERE id = ?", [(n,) for n in certain])


def _referring(sql: str) -> list[str]:
    """The columns of a table's declaration whose comment says that they refer to StringIds."""
    lines = [line.partition("--") for line in sql.splitlines()]
    found = [_COLUMN.match(column) for column, _, comment in lines if _REFERENCE in comment]
    return [column[1] for column in found if column]


def _unreferenced(
    db: sqlite3.Connection, numbers: Iterable[int], references: Iterable[tuple[str, str]]
) -> list[int]:
    """Those ids that no table names."""
    db.execute("CREATE TEMP TABLE doubtful (id INTEGER PRIMARY KEY)")
    db.executemany("INSERT INTO doubtful VALUES (?)", [(number,) for number in numbers])
    for table, column in references:
        db.execute(f'DELETE FROM doubtful WHERE id IN (SELECT "{column}" FROM "{table}")')
    return [number for (number,) in db.execute("SELECT id FROM doubtful")]
