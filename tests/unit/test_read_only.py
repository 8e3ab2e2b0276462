"""A trace is somebody else's file: reading it runs nothing of it, changes nothing and follows nothing."""

from __future__ import annotations

import ast
import sqlite3
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import attnprof
from attnprof.errors import AttnprofError, TraceError
from attnprof.trace.open_trace import open_trace
from attnprof.trace.saved_trace import load_trace
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.sqlite_read_only import open_read_only
from tests.support.build_trace import SCHEMA, TraceBuilder

PACKAGE = Path(attnprof.__file__).parent


@pytest.fixture
def export(tmp_path: Path) -> Path:
    builder = TraceBuilder()
    builder.call(100, 110, 1)
    builder.kernel("flash_fwd_kernel", 200, 300, 1)
    builder.range("step", 50, 400)
    return builder.write(tmp_path / "trace.sqlite")


def changed(path: Path, *statements: str) -> Path:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    return path


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM StringIds",
        "CREATE TABLE more (x)",
        "CREATE TEMP TABLE more (x)",
        "ATTACH DATABASE ':memory:' AS other",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('libm.so.6')",
        "SELECT randomblob(10)",
        "VACUUM INTO '/tmp/never'",
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ],
)
def test_a_connection_to_a_trace_reads_and_does_nothing_else(export: Path, statement: str) -> None:
    before = state(export.parent)
    db = open_read_only(export)
    with pytest.raises(sqlite3.Error):
        db.execute(statement).fetchall()
    db.close()
    assert state(export.parent) == before


def test_the_options_that_limit_what_a_file_can_do_are_set(export: Path) -> None:
    db = open_read_only(export)
    db.set_authorizer(None)
    for pragma, value in (("trusted_schema", 0), ("cell_size_check", 1), ("query_only", 1), ("mmap_size", 0)):
        assert db.execute(f"PRAGMA {pragma}").fetchone() in ((value,), None)
    db.close()


def test_triggers_and_views_of_a_trace_are_not_used_and_nothing_is_written_beside_it(export: Path) -> None:
    changed(
        export,
        "CREATE TRIGGER t AFTER INSERT ON StringIds BEGIN DELETE FROM NVTX_EVENTS; END",
        "CREATE VIEW TARGET_INFO_GPU AS SELECT 1 AS id, load_extension('x') AS name",
        "CREATE VIEW DIAGNOSTIC_EVENT AS SELECT group_concat(hex(zeroblob(1000000))) AS text",
    )
    before = state(export.parent)
    trace = open_trace(export)
    assert (len(trace.kernels), len(trace.ranges), trace.info.devices) == (1, 1, ())
    assert state(export.parent) == before


@pytest.mark.parametrize(
    "expression",
    [
        "zeroblob(1000000000)",
        "length(replace(hex(zeroblob(5000000)), '0', 'aaaa'))",
        "printf('%300000000d', 1)",
    ],
)
def test_a_column_that_the_file_computes_is_no_column(export: Path, expression: str) -> None:
    table = "CUPTI_ACTIVITY_KIND_RUNTIME"
    columns = SCHEMA[table].replace(
        "correlationId INTEGER", f"correlationId INTEGER GENERATED ALWAYS AS ({expression}) VIRTUAL"
    )
    changed(export, f"DROP TABLE {table}", f"CREATE TABLE {table} ({columns})")
    changed(export, f"INSERT INTO {table} VALUES (1, 2, 0, 7, 1, 0, 0)")
    trace = open_trace(export)
    assert (len(trace.api_calls), trace.api_calls.correlation.tolist()) == (1, [-1])


def test_a_virtual_table_is_no_table(export: Path) -> None:
    try:
        changed(
            export,
            "DROP TABLE NVTX_EVENTS",
            "CREATE VIRTUAL TABLE NVTX_EVENTS USING fts5(start, end, eventType)",
        )
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no fts5")
    with_it = Database(export)
    assert "NVTX_EVENTS" not in with_it.tables
    with_it.close()
    assert len(open_trace(export).ranges) == 0


def test_an_array_of_objects_in_a_run_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, head=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(TraceError, match="is damaged"):
        load_trace(path)


def test_names_in_an_archive_are_names_and_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "trace.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.npy", b"\x93NUMPY")
    with pytest.raises(TraceError):
        load_trace(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["inner"]


def test_a_parquet_file_whose_schema_asks_for_unpickling_is_read_without(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    marker = tmp_path / "unpickled"
    payload = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    folder = tmp_path / "export"
    folder.mkdir()
    fields = [pa.field("id", pa.int64()), pa.field("value", pa.string(), metadata=kind)]
    pq.write_table(pa.table([[1], ["x"]], schema=pa.schema(fields)), folder / "StringIds.parquet")
    with pytest.raises(AttnprofError):
        open_trace(folder)
    assert not marker.exists()


FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "dbm", "yaml",
    "xml", "socketserver", "http", "xmlrpc", "asyncio", "ftplib", "smtplib", "urllib", "requests",
}  # fmt: skip
EXCEPT = {
    ("capture/serving.py", "urllib.error"), ("capture/serving.py", "urllib.parse"),
    # asks the server whose address the user gave; serves nothing
    ("capture/serving.py", "urllib.request"), ("capture/serving.py", "http.client"),
    ("report/ci.py", "xml.sax.saxutils"),  # escapes; reads no XML
}  # fmt: skip
RUNS_THE_USERS_PROGRAM = {
    "workloads/program.py": {"exec", "compile"},
    "instrument/forwarding.py": {"exec"},  # inside it: text of the package with names of its parameters
}


@cache
def sources() -> tuple[tuple[str, ast.AST], ...]:
    """(file, node) of everything in the package."""
    return tuple(
        (str(path.relative_to(PACKAGE)), node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
    )


@cache
def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_no_module_that_unpickles_or_serves_is_imported() -> None:
    found = []
    for path, node in sources():
        if isinstance(node, ast.Import):
            found += [(path, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((path, node.module))
    assert len(found) > 300
    forbidden = {(path, name) for path, name in found if name.split(".")[0] in FORBIDDEN_MODULES}
    assert forbidden == EXCEPT


def test_text_becomes_code_only_where_the_users_own_program_runs() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"}
    found = {(path, called(node)) for path, node in sources() if called(node) in forbidden}
    expected = {(path, name) for path, names in RUNS_THE_USERS_PROGRAM.items() for name in names}
    assert found == expected


def test_nothing_is_loaded_that_may_hold_pickles_and_no_shell_is_asked() -> None:
    for path, node in sources():
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        name = called(node)
        if name.endswith(("np.load", "numpy.load")):
            assert options.get("allow_pickle", "False") == "False", path
        assert not name.endswith(("read_pickle", "load_extension", "torch.load")), (path, name)
        assert "shell" not in options, path
        assert options.get("allow_pickle", "False") == "False", path


def test_every_database_that_is_not_our_own_is_opened_read_only() -> None:
    opened = {
        path for path, node in sources() if called(node) in ("sqlite3.connect", "sqlite_utils.Database")
    }
    ours = {
        "machine/find_nsys.py",
        "trace/companion_files.py",
        "runs/database.py",  # attnprof.db
        "trace/nsys_parquet.py",  # in memory
        "trace/open_trace.py",  # a copy, into which the write-ahead log goes
        "trace/sqlite_read_only.py",
    }
    assert {path for path in opened if not path.startswith("capture/")} == ours  # those open our recordings
    connections = [node for path, node in sources() if path == "trace/sqlite_read_only.py"]
    connections = [node for node in connections if called(node) == "sqlite3.connect"]
    assert len(connections) == 1
    assert "?mode=ro&immutable=1" in ast.unparse(connections[0])


def test_code_of_a_model_is_trusted_only_where_the_user_says_so() -> None:
    from attnprof.workloads.spec import GenerateOptions

    assert GenerateOptions().trust_remote_code is False
    values = {
        ast.unparse(keyword.value)
        for _, node in sources()
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code"
    }
    assert values <= {"options.trust_remote_code", "False"}
