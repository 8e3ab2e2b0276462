"""Names and sentences in other programs: a shell, a spreadsheet, a Markdown reader."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from attnprof.report.tables import Column, Table, to_csv, to_markdown
from attnprof.safety.next_command import next_command
from attnprof.safety.printable import printable
from attnprof.safety.quoting import csv_cell, markdown, markdown_words, quoted
from tests.fuzz.hostile import TEXTS
from tests.fuzz.subjects import built_trace
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

HOSTILE = (
    "a b", "$(touch pwned)", "`touch pwned`", "a;touch pwned", "'", '"', "a'b\"c", "\\", "*", "-rf", "--help",
    "!x", "a\nb", "\x1b[2J", "\t", "é日", "\udcff", "~", "~root", "#x", "=x", "%s", "{a,b}", "[a]", "\u202e",
    "a\\\nb",
)  # fmt: skip
BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


@BASH
@pytest.mark.parametrize("name", HOSTILE)
def test_a_shell_takes_a_quoted_name_for_that_name_and_nothing_else(name: str, tmp_path: Path) -> None:
    line = quoted(f"./{name}")
    assert line.isprintable()
    command = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout == f"./{name}\0".encode("utf-8", "surrogateescape")
    assert list(tmp_path.iterdir()) == []


@BASH
@pytest.mark.parametrize("stem", [name for name in HOSTILE if "/" not in name])
def test_the_next_command_of_a_file_of_any_name_can_be_pasted(
    stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = built_trace(Path("t.sqlite")).rename(f"{stem}.sqlite")
    done = attnprof("report", "--", str(path))
    assert done.code == 0, done.err
    (line,) = re.findall(r"^next +(attnprof .*)$", done.out, re.MULTILINE)
    said = "attnprof() { printf '%s\\0' \"$@\"; }\n" + line
    shell = subprocess.run(["bash", "-c", said], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    words = shell.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    again = attnprof(*words)
    assert (again.code, "error" in again.err) == (0, False), (line, again.err)
    assert "pwned" not in {entry.name for entry in tmp_path.iterdir()}
    done = attnprof("import", "--", str(path))
    (line,) = re.findall(r"^next: (attnprof .*)$", done.out, re.MULTILINE)
    shell = subprocess.run(
        ["bash", "-c", said.partition("\n")[0] + "\n" + line],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert attnprof(*shell.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]).code == 0, line


def test_an_ordinary_name_stays_as_it_is() -> None:
    assert (
        next_command("report", "my-run", "--plot", "splits.png") == "attnprof report my-run --plot splits.png"
    )
    assert next_command("check", "-rf") == "attnprof check -- -rf"
    assert next_command("check", Path.home() / "a b.sqlite") == "attnprof check ~/'a b.sqlite'"


def test_every_command_that_is_proposed_is_made_by_one_function() -> None:
    """No text of the package puts a name into a command by itself."""
    package = Path(__file__).resolve().parents[2] / "attnprof"
    by_itself = re.compile(r"attnprof (?:report|check|import|runs|diff|export|doctor)(?: --?[\w-]+)* \{")
    found = [
        f"{path.name}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if by_itself.search(line) and "next_command" not in line and 'f"# attnprof report' not in line
    ]
    assert found == []


FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "'=1",
    "'",
    "''",
    "=cmd|' /C calc'!A0",
)


def as_pandas_reads_it(text: str) -> pd.DataFrame:
    """As docs/reliability.md says."""
    frame = pd.read_csv(io.StringIO(text), keep_default_na=False)
    texts = frame.select_dtypes(exclude="number").columns
    frame[texts] = frame[texts].apply(lambda column: column.str.replace(r"^'", "", regex=True))
    return frame


def test_no_cell_begins_a_formula_numbers_stay_numbers_and_all_reads_back() -> None:
    rows = [
        (name, -number, -0.5 * number) for number, name in enumerate((*FORMULAS, "flash_fwd_kernel"), start=1)
    ]
    text = to_csv(Table("t", (Column("name"), Column("count"), Column("share")), rows))
    frame = as_pandas_reads_it(text)
    assert list(frame.itertuples(index=False, name=None)) == [
        (printable(name), count, share) for name, count, share in rows
    ]
    raw = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert not raw["name"].str.match(r"[=+\-@\t\r\n＝]").any()
    assert "flash_fwd_kernel,-13,-6.5\n" in text


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_cell_begins_no_formula_and_loses_nothing(text: str) -> None:
    cell, text = str(csv_cell(text)), printable(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert (cell[1:] if cell.startswith("'") else cell) == text


def test_exported_tables_begin_no_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    builder = TraceBuilder()
    for number, name in enumerate(FORMULAS, start=1):
        builder.range(name, number * 10, number * 10 + 5)
        builder.call(number * 10, number * 10 + 1, number)
        builder.kernel(name, number * 10 + 2, number * 10 + 4, number)
    builder.write(Path("t.sqlite"))
    assert attnprof("export", "t.sqlite", "--to", "csv", "-o", "out").code == 0
    texts = [path.read_text() for path in Path("out").glob("*.csv")]
    texts += [attnprof("report", "t.sqlite", "--format", "csv", "--table", "kernels").out]
    texts += [
        attnprof("report", "t.sqlite", "--report", name, "--format", "csv").out
        for name in ("cuda_gpu_kern_sum",)
    ]
    assert len(texts) == 7
    assert sum(text.count("＝1") for text in texts) >= 3
    for text in texts:
        frame = pd.read_csv(io.StringIO(text), keep_default_na=False)
        for column in frame.select_dtypes(exclude="number"):
            assert not frame[column].astype(str).str.match(r"[=+\-@\t\r\n＝]").any(), column


READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_LITERAL = {"text", "code_inline"}
MARKED = (
    "![x](http://x/y.png)", "[x](javascript:alert(1))", "<script>alert(1)</script>", "<img src=x>", "<http://x>",
    "**b**", "_e_", "__init__", "~~x~~", "`x`", "``", "`", "a|b", "a\\|b", "\\", "&lt;b&gt;",
    "x\n\nverdict    OK", "# h", "[^1]", "www.example.org", "http://example.org",
    "me@example.org", "$x$", ":x:", "| a |", " ` ",
    "a`|`b", "x\r## verdict",
)  # fmt: skip


@pytest.mark.parametrize("name", [*MARKED, *TEXTS])
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    name = name[:2000]
    table = Table("t", (Column("name"), Column("other")), [(name, "x"), ("y", "z")])
    tokens = READER.parse(to_markdown(table))
    cells = [token for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in cell.children or ()) for cell in cells]
    kinds = {child.type for cell in cells for child in cell.children or ()}
    assert kinds <= _LITERAL
    assert len(cells) == 6
    assert [shown[0], shown[1], *shown[3:]] == ["name", "other", "x", "y", "z"]
    from attnprof.safety.redact import redact

    wanted = " ".join(printable(redact(name)).splitlines())
    assert shown[2].replace("\\u007c", "|").strip() == wanted.strip()


@pytest.mark.parametrize("name", [*MARKED, *TEXTS])
def test_markdown_sentences_hold_no_markup_of_others(name: str) -> None:
    tokens = READER.parse(f"- run: {markdown_words(f'the kernel {name[:2000]} ran')}\n")
    assert [token.type for token in tokens].count("inline") == 1
    assert {child.type for token in tokens for child in token.children or ()} <= _LITERAL


def test_ordinary_names_stay_as_they_are_in_markdown() -> None:
    for text in (
        "flash_fwd_kernel",
        "splitkv + combine",
        "12.5 %",
        "<0.1 %",
        "a:outer",
        "2–54",
        "fwd (28/4 heads)",
    ):
        assert markdown(text) == text
    assert markdown("void f<128, 64>(int*)") == "`void f<128, 64>(int*)`"


def test_links_that_github_makes_of_bare_addresses_stand_in_code() -> None:
    for text in ("http://x.org", "www.x.org", "me@x.org"):
        assert markdown(text) == f"`{text}`"


def test_a_report_in_markdown_of_a_hostile_trace_holds_no_markup_of_it(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for number, name in enumerate(MARKED, start=1):
        builder.call(number * 10, number * 10 + 1, number)
        builder.kernel(f"flash_fwd_kernel {name}", number * 10 + 2, number * 10 + 4, number)
    path = builder.write(tmp_path / "![x](http:%2f%2fx).sqlite")
    for arguments in (("report", path), ("check", path), ("diff", path, path)):
        done = attnprof(*map(str, arguments), "--format", "md")
        inline = [child for token in READER.parse(done.out) for child in token.children or ()]
        assert inline
        assert {child.type for child in inline} <= {*_LITERAL, "softbreak"}
        assert not any(token.type.startswith("html") for token in READER.parse(done.out))


def test_shlex_reads_what_is_proposed() -> None:
    for name in ("a b", "x;y", "$HOME", "it's"):
        assert shlex.split(next_command("report", name)) == ["attnprof", "report", name]
