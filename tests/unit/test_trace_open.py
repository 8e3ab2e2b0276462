"""Which reader a file gets, what is refused, and that nothing beside the file changes."""

from __future__ import annotations

import gzip
import sqlite3

import pytest

from attnprof.errors import TraceError
from attnprof.trace.open_trace import open_trace
from tests.support.build_trace import TraceBuilder


@pytest.fixture
def export(tmp_path):
    build = TraceBuilder()
    for i in range(500):
        build.kernel(f"kernel number {i}", 10 * i, 10 * i + 5, i)
        build.call(10 * i - 5, 10 * i - 1, i)
    return build.write(tmp_path / "trace.sqlite")


def listing(folder):
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_the_name_does_not_matter_and_nothing_is_written(export, tmp_path):
    odd = tmp_path / "50% #1? ünï.bin"
    export.rename(odd)
    before = listing(tmp_path)
    assert len(open_trace(odd).kernels) == 500
    assert listing(tmp_path) == before


def test_a_gzipped_export_is_unpacked_elsewhere_and_cleaned_up(export, tmp_path, monkeypatch):
    packed = tmp_path / "trace.sqlite.gz"
    packed.write_bytes(gzip.compress(export.read_bytes()))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = listing(tmp_path)
    trace = open_trace(packed)
    assert (len(trace.kernels), trace.info.path) == (500, str(packed))
    assert not list(scratch.iterdir())
    assert {n: v for n, v in listing(tmp_path).items() if n != "scratch"}.items() <= before.items()


def test_rows_still_in_a_write_ahead_log_are_read_from_a_copy(export, tmp_path):
    writer = sqlite3.connect(export)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE correlationId >= 100")
    writer.commit()
    before = listing(tmp_path)
    assert "trace.sqlite-wal" in before
    assert len(open_trace(export).kernels) == 100
    assert listing(tmp_path) == before
    writer.close()


def test_an_export_being_written_is_refused(export):
    export.with_name("trace.sqlite-journal").write_bytes(b"x" * 512)
    with pytest.raises(TraceError, match="being written"):
        open_trace(export)


def spoiled(export, how):
    raw = export.read_bytes()
    return {
        "empty": b"",
        "half": raw[: len(raw) // 2],
        "header only": raw[:60],
        "torn pages": raw[:4096] + b"\xff" * (len(raw) - 4096),
        "text": b"hello, this is no trace\n",
        "binary": bytes(range(256)) * 40,
        "gzip of nothing": gzip.compress(b""),
        "gzip of text": gzip.compress(b"hello"),
        "cut gzip": gzip.compress(raw)[:-200],
        "cut gzip head": gzip.compress(raw)[:12],
        "bad gzip": b"\x1f\x8b" + b"\0" * 100,
        "gzip of half": gzip.compress(raw[: len(raw) // 2]),
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "is empty"),
        ("half", "cut short"),
        ("header only", "cut short"),
        ("torn pages", "cannot be read|damaged"),
        ("text", "no trace"),
        ("binary", "no trace"),
        ("gzip of nothing", "empty once unpacked"),
        ("gzip of text", "no trace"),
        ("cut gzip", "broken gzip"),
        ("cut gzip head", "broken gzip"),
        ("bad gzip", "broken gzip"),
        ("gzip of half", "cut short"),
    ],
)
def test_a_bad_file_gives_one_error_that_names_it(export, tmp_path, how, says):
    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(spoiled(export, how))
    with pytest.raises(TraceError, match=says) as caught:
        open_trace(bad)
    assert str(bad) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(TraceError, match="does not exist"):
        open_trace(tmp_path / "nothing.sqlite")
    with pytest.raises(TraceError, match="is a folder"):
        open_trace(tmp_path)


def test_a_database_of_something_else_is_told_by_its_tables(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE invoices (id INTEGER)")
    with pytest.raises(TraceError, match=r"no nsys export.*invoices"):
        open_trace(path)


def test_a_report_without_nsys_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNPROF_NSYS", str(tmp_path / "nowhere"))
    report = tmp_path / "run.nsys-rep"
    report.write_bytes(b"something")
    with pytest.raises(TraceError, match="needs nsys") as caught:
        open_trace(report)
    assert "nsys export --type sqlite run.nsys-rep" in caught.value.hint


def test_what_nsys_says_of_a_report_it_cannot_open_is_passed_on(tmp_path):
    nsys = tmp_path / "nsys"
    nsys.write_text(
        "#!/bin/sh\necho 'Report was created in Nsight Systems version (2026.1), newer than yours' >&2\n"
    )
    nsys.chmod(0o755)
    report = tmp_path / "run.nsys-rep"
    report.write_bytes(b"something")
    with pytest.raises(TraceError, match=r"newer than yours") as caught:
        open_trace(report, nsys=str(nsys))
    assert "newer one" in caught.value.hint


def installed(folder):
    """A stand-in for an nsys installation: its programs copy input to output and leave a line in a log."""
    programs = {"target-linux-x64/nsys": ("$8", "$7"), "host-linux-x64/QdstrmImporter": ("$2", "$4")}
    for name, (source, made) in programs.items():
        program = folder / name
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/log"\ncp "{source}" "{made}"\n')
        program.chmod(0o755)
    return folder / "target-linux-x64" / "nsys"


@pytest.mark.parametrize(("suffix", "programs"), [(".nsys-rep", 1), (".qdrep", 1), (".qdstrm", 2)])
def test_a_report_goes_through_the_converters_of_its_kind(export, tmp_path, suffix, programs):
    (tmp_path / "installation").mkdir()
    nsys = installed(tmp_path / "installation")
    folder = tmp_path / "mine"
    folder.mkdir()
    report = export.rename(folder / f"run{suffix}")
    trace = open_trace(report, nsys=str(nsys))
    assert (len(trace.kernels), trace.info.path) == (500, str(report))
    commands = (tmp_path / "installation" / "log").read_text().splitlines()
    assert len(commands) == programs
    assert commands[-1].startswith("export --type sqlite")
    assert [p.name for p in folder.iterdir()] == [report.name]
