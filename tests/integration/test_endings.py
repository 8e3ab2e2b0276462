"""However a command ends: one line, the documented exit code, no traceback."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.subjects import built_trace
from tests.support.generated_run import calls_only_run

COMMAND = [sys.executable, "-m", "attnprof"]
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def shell(line: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a line of sh in which ``attnprof`` is ours."""
    ours = " ".join(f"'{word}'" for word in COMMAND)
    done = subprocess.run(
        ["/bin/sh", "-c", f'attnprof() {{ {ours} "$@"; }}\n{line}'],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in err + out, err
    assert "Exception ignored" not in err, err
    return done.returncode, out, err


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return built_trace(tmp_path / "t.sqlite")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("attnprof diff t.sqlite t.sqlite", 0),
        ("attnprof check t.sqlite --expect-splits 7", 1),
        ("attnprof check nothing.sqlite", 2),
        ("attnprof check t.sqlite --no-such-option", 2),
        ("attnprof no-such-command", 2),
        ("attnprof predict --seqlen-k 128 --gpu h9000", 2),
        ("attnprof report t.sqlite --plot x.png", 0),
        ("attnprof import t.sqlite", 0),
        ("attnprof check calls", 3),
    ],
)
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2>/dev/null <&-"])
def test_the_exit_code_is_the_same_whatever_becomes_of_stderr(
    trace: Path, tmp_path: Path, line: str, code: int, stderr: str
) -> None:
    if "full" in stderr and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    if line.endswith(" calls"):
        calls_only_run("calls", range(120, 130))
    assert shell(f"{line} {stderr}", tmp_path)[0] == code


@pytest.mark.parametrize("stdout", [">&-", pytest.param(">/dev/full", marks=FULL)])
@pytest.mark.parametrize(
    "line",
    [
        "attnprof check t.sqlite",
        "attnprof report t.sqlite --format json",
        "attnprof --help",
        "attnprof gpus",
        "attnprof sweep --seqlen-k 1:512 --all --format csv",
        "attnprof export t.sqlite -o -",
        "attnprof predict --seqlen-k 9",
        "attnprof doctor t.sqlite",
    ],
)
def test_an_output_that_cannot_be_written_is_one_error(
    trace: Path, tmp_path: Path, line: str, stdout: str
) -> None:
    code, _, err = shell(f"{line} {stdout}", tmp_path)
    assert (code, len(re.findall("^error: ", err, re.M))) == (2, 1), err
    assert "cannot write the output: " in err
    assert len(err.strip().splitlines()) == 1 or "doctor" in line


@FULL
def test_where_nothing_can_be_said_the_exit_code_says_it(trace: Path, tmp_path: Path) -> None:
    for streams in (">&- 2>&-", ">/dev/full 2>/dev/full", ">&- 2>&- <&-"):
        assert shell(f"attnprof check t.sqlite {streams}", tmp_path)[0] == 2
        assert shell(f"attnprof check nothing.sqlite {streams}", tmp_path)[0] == 2


def test_a_file_that_is_made_takes_no_closed_streams_place(trace: Path, tmp_path: Path) -> None:
    code, _, _ = shell("attnprof import t.sqlite -o kept >/dev/null 2>&- <&-", tmp_path)
    assert code == 0
    assert shell("attnprof report kept", tmp_path)[0] == 0
    code, _, _ = shell("attnprof report t.sqlite --html page.html 2>&-", tmp_path)
    assert (code, (tmp_path / "page.html").read_text()[:15]) == (0, "<!doctype html>")


@pytest.mark.parametrize("line", ["attnprof gpus", "attnprof sweep --seqlen-k 1:4096 --all --format csv"])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, line: str) -> None:
    code, out, err = shell(f"{{ {line}; echo $? >code; }} | head -1", tmp_path)
    assert (code, len(out.splitlines()), err) == (0, 1, "")
    assert (tmp_path / "code").read_text() in ("0\n", "141\n")
    if "sweep" in line:
        assert (tmp_path / "code").read_text() == "141\n"


@pytest.mark.parametrize("columns", ["8", "0", "999999999999999999999"])
def test_a_terminal_of_any_width_is_written_to(trace: Path, tmp_path: Path, columns: str) -> None:
    calls_only_run("calls", range(120, 130))
    lines = ("report calls", "run --help", "explain --seqlen-k 300", "doctor t.sqlite", "diff t.sqlite calls")
    for line in (*lines, "runs"):
        code, _, err = shell(f"attnprof {line}", tmp_path, COLUMNS=columns, FORCE_COLOR="1", LINES=columns)
        assert code in (0, 3), err


def test_eight_columns_of_a_real_terminal(trace: Path, tmp_path: Path) -> None:
    script = subprocess.run(["sh", "-c", "command -v script"], capture_output=True, check=False)
    if script.returncode:
        pytest.skip("no script(1) here")
    ours = " ".join(COMMAND)
    line = f"stty cols 8 rows 3; {ours} report t.sqlite; echo code=$?"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
    )
    assert b"code=0" in done.stdout
    assert b"Traceback" not in done.stdout


ODD = (
    {"HOME": "", "PATH": ""},
    {"HOME": "/nowhere", "TMPDIR": "/nowhere"},
    {"PYTHONIOENCODING": "ascii", "TERM": ""},
    {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    {"MPLCONFIGDIR": "/proc/x", "TZ": ":::"},
    {"PYTHONWARNINGS": "error"},
    {"PYTHONOPTIMIZE": "2"},
    {"ATTNPROF_GPU": "h9000"},
    {"ATTNPROF_LIBRARY": "x"},
    {"ATTNPROF_VERSION": "9" * 5000},
    {"ATTNPROF_RUNS": "x" * 5000},
    {"ATTNPROF_RUNS": "/dev/null"},
    {"ATTNPROF_RUNS": "/proc/self/fd"},
    {"ATTNPROF_RUNS": "\n"},
    {"PYTHONDEVMODE": "1", "ATTNPROF_NSYS": "/dev/zero"},
)


@pytest.mark.parametrize("variables", ODD, ids=lambda odd: "".join(f"{k}={v[:12]}" for k, v in odd.items()))
def test_no_environment_makes_a_traceback(trace: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    for line, codes in (
        ("report t.sqlite --plot x.png", (0, 2)),
        ("predict --seqlen-k 4096", (0, 2)),
        ("import t.sqlite -o kept -f", (0, 2)),
    ):
        code, _, err = shell(f"attnprof {line}", tmp_path, **variables)
        assert code in codes, err
        assert (code == 2) == bool(re.search("^error: ", err, re.M)), err


@pytest.mark.parametrize("files", [6, 8, 12])
def test_a_process_that_may_open_few_files_says_so(trace: Path, tmp_path: Path, files: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    for line in ("report t.sqlite", "import t.sqlite -o kept -f", "runs"):
        arguments = [*COMMAND, *line.split()]
        done = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, check=False
        )
        if "attnprof" not in done.stderr and "error: " not in done.stderr and done.returncode:
            continue  # Python itself did not start
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0 or (done.returncode == 2 and done.stderr.count("error: ") == 1), (
            done.stderr
        )


@pytest.mark.parametrize("megabytes", [60, 100, 160, 240, 400])
def test_a_process_that_may_have_little_memory_says_so(trace: Path, tmp_path: Path, megabytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*COMMAND, "report", "t.sqlite"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
        env=variables,
    )
    if done.returncode < 0 or "init_" in done.stderr or "OpenBLAS" in done.stderr:
        pytest.skip("Python itself, or a library's own code, did not take it")
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, done.stderr.count("error: ")) in ((0, 0), (2, 1)), done.stderr


BEYOND = ("nan", "inf", "-inf", "1e999", "-1e999", "9" * 400, "1e-999", "0x10", "1_000", "\u0663", "")


@pytest.mark.parametrize("number", BEYOND)
def test_a_number_beyond_what_an_option_takes_is_a_usage_error_or_an_answer(
    trace: Path, tmp_path: Path, number: str
) -> None:
    from tests.support.command import attnprof

    path = str(trace)
    nine = ("predict", "--seqlen-k", "9")
    for arguments in (
        ("predict", "--seqlen-k", number),
        (*nine, "--batch", number),
        (*nine, "--softcap", number),
        ("explain", "--seqlen-k", number),
        ("sweep", "--seqlen-k", number),
        ("sweep", "--seqlen-k", f"1:{number}"),
        ("check", path, "--expect-splits", number),
        ("check", path, "--sms", number),
        ("check", path, "--sm", number),
        ("diff", path, path, "--gate", number),
        ("report", path, "--step", number),
        (*nine, "--version", number),
        ("export", path, "--steps", number, "-o", str(tmp_path / "x")),
        (*nine, "--sms", number, "--sm", "9.0"),
        ("run", "--max-new-tokens", number, "--dry-run"),
        ("check", path, "--min-compared", number),
    ):
        done = attnprof(*arguments)  # anything else is raised
        assert done.code in (0, 1, 2, 3)
        assert done.code != 2 or "rror: " in done.err or "Usage" in done.err


SETTINGS = (
    'gpu = "a\\u0000b"',
    'runs = "x\\u0000y"',
    'nsys = "\\u0000"',
    "gpu = 1e999",
    "gpu = inf",
    "gpu = " + "9" * 5000,
    "a." * 50_000 + "a = 1",
    "gpu = [" + "[" * 50_000,
    "\ufeffgpu = 'a100'",
    'gpu = "h\\ud800"',
    'version = "' + "9" * 9000 + '"',
    "[gpu]",
    "gpu = 1979-05-27T07:32:00Z",
)


@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("file", ["attnprof.toml", "pyproject.toml"])
def test_settings_of_any_kind_are_one_error(
    tmp_path: Path, text: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.command import attnprof

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATTNPROF_RUNS", raising=False)
    begin = "[tool.attnprof]\n" if file.startswith("py") else ""
    (tmp_path / file).write_text(begin + text, encoding="utf-8")
    trace = str(built_trace(tmp_path / "t.sqlite"))
    ended = []
    for arguments in (("predict", "--seqlen-k", "128"), ("runs",), ("import", trace), ("check", "nothing")):
        done = attnprof(*arguments)
        ended.append(done.code)
        assert (done.code, done.err.count("error: ")) in ((0, 0), (2, 1)), done.err
        assert len(done.err) < 3000
    assert ended[3] == 2


def test_one_run_whose_file_is_a_hole_of_six_gigabytes_hides_no_other(tmp_path: Path) -> None:
    calls_only_run("good", range(120, 124))
    runs = tmp_path / "attnprof-runs"
    for name, file in (("huge", "run.json"), (".left.partial-1-ab", "building.jsonl")):
        (runs / name).mkdir()
        with (runs / name / file).open("wb") as hole:
            hole.truncate(6 << 30)
    before = time.process_time()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    for arguments, code in (
        (["runs"], 0),
        (["report"], 0),
        (["check", "huge"], 2),
    ):
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            preexec_fn=limit,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert arguments[0] != "runs" or "good" in done.stdout
    assert time.process_time() - before < 30


@pytest.mark.parametrize("file", ["attnprof.toml", "pyproject.toml"])
def test_settings_of_six_gigabytes_are_one_error(tmp_path: Path, file: str) -> None:
    with (tmp_path / file).open("wb") as hole:
        hole.truncate(6 << 30)
    code, _, err = shell("attnprof predict --seqlen-k 128", tmp_path)
    assert (code, "it has more than" in err) == (2, True)
