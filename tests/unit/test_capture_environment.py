"""What a recorder collects of environments leaves its export, and nothing else does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from attnprof.capture.environment import copy_without_environments, kept_environment

SECRET = "hunter2-hunter2"
NVTX = """CREATE TABLE NVTX_EVENTS (
    start       INTEGER   NOT NULL,    -- Event start timestamp (ns).
    textId      INTEGER                -- REFERENCES StringIds(id) -- NVTX message
)"""


def export(path: Path, texts: Iterable[str], *statements: str) -> Path:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
    db.executemany("INSERT INTO StringIds(value) VALUES (?)", [(text,) for text in texts])
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    return path


def clean(path: Path) -> sqlite3.Connection:
    target = path.with_name("clean.sqlite")
    copy_without_environments(path, target)
    assert SECRET.encode() not in target.read_bytes()
    return sqlite3.connect(target)


def texts_of(db: sqlite3.Connection) -> list[str]:
    return [text for (text,) in db.execute("SELECT value FROM StringIds ORDER BY id")]


def test_environments_leave_the_strings_and_nothing_else_does(tmp_path: Path) -> None:
    kept = ["flash_fwd_kernel<Traits<128>, (bool)0>", "step=5", "name\0x"]
    block = f"HOME=/home/me\0API_TOKEN={SECRET}"
    path = export(tmp_path / "raw.sqlite", [*kept, block], NVTX, "INSERT INTO NVTX_EVENTS VALUES (1, 2)")
    assert texts_of(clean(path)) == [*kept, "(removed)"]


def test_an_environment_of_one_variable_is_told_from_a_range_by_nothing_naming_it(tmp_path: Path) -> None:
    range_name, alone = "token=5", f"API_TOKEN={SECRET}"
    path = export(tmp_path / "raw.sqlite", [range_name, alone], NVTX, "INSERT INTO NVTX_EVENTS VALUES (1, 1)")
    assert texts_of(clean(path)) == [range_name, "(removed)"]


@pytest.mark.parametrize("joined_by", ["\0", ";"], ids=["2022.4", "2023.4"])
def test_the_recorders_own_environment_leaves_the_description_of_the_machine(
    tmp_path: Path, joined_by: str
) -> None:
    path = export(
        tmp_path / "raw.sqlite",
        [],
        "CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT, value TEXT)",
        "INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('Hostname', 'box')",
    )
    with sqlite3.connect(path) as db:
        value = joined_by.join(["SHELL=/bin/sh", f"API_TOKEN={SECRET}"])
        db.execute("INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('DeviceEnvironment', ?)", (value,))
    db.close()
    assert clean(path).execute("SELECT * FROM TARGET_INFO_SYSTEM_ENV").fetchall() == [("Hostname", "box")]


def test_variables_and_arguments_leave_the_capture_options(tmp_path: Path) -> None:
    path = export(
        tmp_path / "raw.sqlite",
        [],
        "CREATE TABLE META_DATA_CAPTURE (name TEXT, value TEXT)",
        f"INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', 'API_TOKEN={SECRET}')",
        f"INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ARGUMENT_0', '{SECRET}')",
        "INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:COMMAND', 'python')",
    )
    assert clean(path).execute("SELECT * FROM META_DATA_CAPTURE").fetchall() == [
        ("PROCESS_0:COMMAND", "python")
    ]


def test_a_run_keeps_only_variables_that_change_what_runs() -> None:
    environment = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "API_TOKEN": SECRET,
        "PATH": "/usr/bin",
        "OMP_NUM_THREADS": "2",
    }
    assert kept_environment(environment) == {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"}
