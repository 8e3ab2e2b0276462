"""Time grows with a text and no faster: every reader and printer, on repeated pieces of its own alphabet."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import permutations
from pathlib import Path
from time import process_time

import pytest

from attnprof.analysis.kernel_groups import kernel_group
from attnprof.calls.call_files import read_json_lines
from attnprof.calls.calls_alike import CallsAlike
from attnprof.capture.nsys_messages import explain, last_words
from attnprof.dispatch.flash_attn3.names import template_fields as flash_attn3_fields
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.template import template_difference
from attnprof.dispatch.versions import parse_version
from attnprof.errors import AttnprofError
from attnprof.files.untrusted import parse_json, written_lines
from attnprof.gpus import gpu_by_name
from attnprof.machine.configuration import setting
from attnprof.report.console import make_console
from attnprof.report.tables import Column, Table, table_text, to_csv, to_markdown
from attnprof.report.text import labelled
from attnprof.runs.run import load
from attnprof.safety.printable import GuardedStream, printable
from attnprof.safety.redact import redact, redact_all, redact_command
from attnprof.trace.graph_annotations import annotation
from attnprof.trace.graph_capture import read_captures
from attnprof.trace.json_stream import JsonStream
from attnprof.trace.module_names import kind_of_class, kind_of_range
from attnprof.trace.torch_blocks import Blocks
from attnprof.trace.torch_rows import Rows
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.patterns import PACKAGE

_LENGTH = 16_000
_QUICK_S = 0.03
_GROWTH = 8.0  # for four times the text; 16 where time grows with the square
_ASKED_AGAIN = 3  # a busy machine's clock jumps once; what grows too fast does so each time

_WORDS = ("x", "1", " ", "\n", "é", "=", ":", "/", "_", "-", "\\", '"', "'", "a.")
_SECRETS = (
    "sk-",
    "eyJ",
    "-eyJ",
    "SG.",
    "token=",
    "secret",
    "key=",
    "bearer ",
    "://",
    "a:b@",
    "/home/",
    "aB3",
)
_NAMES = (
    "<", "(", ">", ",", "::", "void ", "_Z", "I", "L", "flash_fwd_kernel", "Flash", "FlashAttnFwdCombine<",
    "device_kernel<", "enable_", "cudnn_generated_", "sdpa", "C<(int)", "true", "fmhaSm100fKernel_QkvE4m3",
    "kernel_cutlass_", "Attention", "N1a", "_fwd_kernel", "KernelTraits<(MaskMode)1, ", "flashinfer::", "1, ",
)  # fmt: skip
_JSON = ("[", "]", "{", "}", ",", '"', "\\", ":", "1", "e9", " ", "null", '{"a":', "[[", '"a",')
_TOML = ("a", ".", "=", "[", "]", '"', "'", "#", "\n", "a.b=1\n", "[[a]]\n", "{", "a=[", "\\", '"""')
_TERMINAL = ("\x1b[", "22", "2", "m", ";", "\x1b", "\x9b", "\0", "\ud800", "\t")
_MARKS = ("|", "<", ">", "*", "_", "`", "[", "]", "(", "!", "#", "&", "\\", "\n", "=")
_RANGES = ("execute_", "context_1", "(", "_generation_0", "step", "layer", "decode", "prefill", "1", ".")

_TABLE = (Column("name", wraps=True), Column("other"))


def _as_table(form: Callable[[Table], str], text: str) -> None:
    form(Table("t", _TABLE, [(text, text)]))


def _lines(text: str) -> None:
    file = io.BytesIO(text.encode("utf-8", "replace"))
    for _ in written_lines(file.read, 1 << 24):
        pass


def _call_file(ending: str, text: str) -> None:
    path, content = Path(f"calls{ending}"), text.encode("utf-8", "replace")
    path.write_bytes(gzip.compress(content, 1) if ending.endswith(".gz") else content)
    for _ in read_json_lines(path):
        pass


def _call_lines(text: str) -> None:
    read = CallsAlike(lambda call, gpu, version: call, None).read
    for line in (text, f'{{"batch": 1, "seqlen_q": 1, "seqlen_k": 1, "comment": "{text}"}}'):
        with suppress(AttnprofError):
            read(line.encode("utf-8", "replace"))


def _events(before: str, after: str, text: str) -> None:
    for _ in JsonStream(io.StringIO(before + text + after)).events():
        pass


def _blocks(text: str) -> None:
    for _ in JsonStream(io.StringIO(f"[{text}]")).events(Blocks(Rows()).take):
        pass


def _event_named(text: str) -> None:
    event = {"ph": "X", "name": text, "pid": 1, "tid": 1, "ts": 1, "dur": 2}
    events = [{**event, "cat": kind} for kind in ("cpu_op", "user_annotation", "kernel", "cuda_runtime")]
    Path("t.json").write_text(json.dumps({"traceEvents": events}))
    load("t.json").check()


def _captured(text: str) -> None:
    event = {"ph": "X", "pid": 1, "tid": 1, "ts": 1, "dur": 9}
    names = {"cpu_op": text, "user_annotation": text, "python_function": f"nn.Module: {text}"}
    events = [{**event, "cat": "cuda_runtime", "name": "cudaStreamBeginCapture"}]
    events += [{**event, "cat": kind, "name": name, "ts": 2} for kind, name in names.items()]
    events.append({**events[0], "name": "cudaLaunchKernel", "ts": 3, "dur": 1, "args": {"kernel": text}})
    events.append({**events[0], "name": "cudaStreamEndCapture", "ts": 20})
    Path("t.json").write_text(json.dumps({"traceEvents": events}))
    assert len(read_captures(Path("t.json"))[0].kernels) == 1


def _range_named(text: str) -> None:
    builder = TraceBuilder()
    builder.range(text.encode("utf-8", "replace").decode().replace("\0", ""), 1, 100)
    builder.call(2, 3, 1)
    builder.kernel(text.encode("utf-8", "replace").decode().replace("\0", ""), 4, 5, 1)
    Path("t.sqlite").unlink(missing_ok=True)
    load(builder.write(Path("t.sqlite"))).check()


def _module_named(text: str) -> None:
    kind_of_class.__wrapped__(text)
    kind_of_range(text)
    kind_of_range(f"'Module': '{text}'")


def _toml(text: str) -> None:
    Path("attnprof.toml").write_text(text, encoding="utf-8", errors="replace")
    setting("gpu")


def _log(text: str) -> None:
    path = Path("log")
    path.write_text(text, encoding="utf-8", errors="replace")
    explain(path), last_words(path)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _on_terminal(text: str) -> None:
    GuardedStream(_Terminal()).write(text)


def _as_label(text: str) -> None:
    labelled(make_console(), "name", text)


def _exported(text: str) -> None:
    _range_named(text)
    assert attnprof("export", "t.sqlite", "-o", "exported.json", "-f").code == 0


def _paged(text: str) -> None:
    _range_named(text)
    assert attnprof("report", "t.sqlite", "--html", "page.html").code == 0


# The reader, its alphabet, and the modules it stands for.
READERS: dict[str, tuple[Callable[[str], object], tuple[str, ...], tuple[str, ...]]] = {
    "redact": (redact, (*_WORDS, *_SECRETS), ("safety/redact.py",)),
    "redact a key": (lambda text: redact_all({text: text}), (*_WORDS, *_SECRETS), ("safety/redact.py",)),
    "redact a command": (lambda t: redact_command([t, f"--{t}"]), (*_WORDS, *_SECRETS), ()),
    "printable": (printable, (*_WORDS, *_TERMINAL), ("safety/printable.py",)),
    "a terminal": (_on_terminal, (*_WORDS, *_TERMINAL), ("safety/printable.py",)),
    "JSON": (lambda text: parse_json(text.encode("utf-8", "replace")), _JSON, ("files/untrusted.py",)),
    "lines": (_lines, (*_JSON, "\n"), ("files/untrusted.py",)),
    "calls": (partial(_call_file, ".jsonl"), (*_JSON, "\n"), ("calls/call_files.py",)),
    "lines of calls": (_call_lines, (*_JSON, '"batch": 1', '"seqlen_k":2,'), ("calls/calls_alike.py",)),
    "packed calls": (partial(_call_file, ".jsonl.gz"), (*_JSON, "\n"), ("files/compressed.py",)),
    "events": (partial(_events, "[", "]"), _JSON, ("trace/json_stream.py",)),
    "an event's text": (partial(_events, '[{"name": "', '"}]'), _JSON, ("trace/json_stream.py",)),
    "a mark of graph kernels": (
        lambda text: annotation({"name": text, "annotation": f"[{text}"}),
        (*_NAMES, "[", '{"name": "', '"},', ","), ("trace/graph_annotations.py",),
    ),
    "a capture's names": (_captured, (*_NAMES, *_RANGES, "nn.Module: "), ("trace/graph_capture.py",)),
    "blocks of events": (_blocks, (*_JSON, "},{"), ("trace/torch_blocks.py",)),
    "an event's name": (_event_named, (*_NAMES, *_RANGES), ("trace/torch_json.py", "trace/torch_rows.py")),
    "a range's name": (_range_named, (*_NAMES, *_RANGES), ("trace/range_names.py", "trace/nsys_sqlite.py")),
    "kernel": (
        parse_kernel_name, _NAMES,
        tuple(
            f"dispatch/names/{module}.py"
            for module in (
                *("families", "family", "kernel_names", "others", "symbols", "arguments", "late_pattern"),
            )
        ),
    ),
    "a module's name": (
        _module_named,
        ("a", "1", ".", "_", "_1", "norm", "gate", "mlp.", "Att", "Rotary", "For", "A", "(F)", " ", "'"),
        ("trace/module_names.py",),
    ),
    "kernel group": (kernel_group, _NAMES, ()),
    "template": (
        lambda text: template_difference(text, f"{text}x"), _NAMES,
        ("dispatch/names/template.py", "dispatch/names/spelling.py"),
    ),
    "flash_attn 3 template": (flash_attn3_fields, _NAMES, ()),
    "a version": (parse_version, ("1", ".", "post", "+", "v", "a", "\n"), ()),
    "a GPU": (gpu_by_name, ("a", "1", " ", "-", "h100"), ()),
    "settings": (_toml, _TOML, ("machine/configuration.py",)),
    "nsys's log": (_log, (*_WORDS, "interprocess_exception", "%]", "\r"), ()),
    "a table": (partial(_as_table, table_text), (*_WORDS, *_MARKS), ()),
    "CSV": (partial(_as_table, to_csv), (*_WORDS, *_MARKS), ()),
    "Markdown": (partial(_as_table, to_markdown), (*_WORDS, *_MARKS), ("safety/quoting.py",)),
    "a label": (_as_label, (*_WORDS, "\x1b", "日"), ()),
    "an export": (_exported, ("sk-", "secret", "<"), ()),
    "a page": (_paged, ("sk-", "<"), ()),
}  # fmt: skip
# Read what this attnprof or nsys has just written, or are read through another in the table.
_THROUGH_OTHERS = {
    "trace/companion_files.py", "trace/nsys_parquet.py", "trace/open_trace.py", "trace/sqlite_pages.py",
    "calls/kv_read.py",
}  # fmt: skip
_READS = re.compile(
    r"json\.loads|tomllib\.loads|read_text|read_bytes|readline|\.read1?\(|JSONDecoder|^import re$", re.M
)
_FROM_ANYBODY = ("safety/", "files/", "calls/", "trace/", "dispatch/names/", "machine/configuration.py")


def _seconds(read: Callable[[str], object], text: str) -> float:
    began = process_time()
    with suppress(AttnprofError, ValueError, RecursionError):
        read(text)
    return process_time() - began


def _texts(pieces: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield from ((piece,) for piece in pieces)
    yield from list(permutations(pieces, 2))[:: max(1, len(pieces) // 4)]  # a share of the pairs


def _of(pieces: tuple[str, ...], length: int) -> str:
    one = "".join(pieces)
    return one * (length // len(one)) + "!"


@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_longer_than_its_text_is_long(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read, alphabet, _ = READERS[name]
    _seconds(read, "x")  # what it imports
    slow = []
    for pieces in _texts(alphabet):
        began = time.monotonic()
        if _seconds(read, _of(pieces, _LENGTH)) > _QUICK_S:
            for _ in range(_ASKED_AGAIN):
                short = min(_seconds(read, _of(pieces, _LENGTH)) for _ in range(2))
                long = _seconds(read, _of(pieces, 4 * _LENGTH))
                if long <= _GROWTH * short:
                    break
            else:
                slow.append(f"{pieces}: {short:.3f} s, four times the text {long:.3f} s")
        assert time.monotonic() - began < 60, pieces
    assert slow == []


def test_a_reader_that_does_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        READERS, "square", (lambda text: [text[at:] + "x" for at in range(len(text))], ("x",), ())
    )
    with pytest.raises(AssertionError, match="four times the text"):
        test_no_reader_takes_longer_than_its_text_is_long("square", tmp_path, monkeypatch)


def test_every_module_that_reads_what_anybody_wrote_is_measured() -> None:
    reading = {
        name
        for path in PACKAGE.rglob("*.py")
        if (name := str(path.relative_to(PACKAGE))).startswith(_FROM_ANYBODY)
        and _READS.search(path.read_text(encoding="utf-8"))
    }
    measured = {module for _, _, modules in READERS.values() for module in modules}
    assert reading - measured - _THROUGH_OTHERS == set()
    assert all((PACKAGE / module).exists() for module in measured | _THROUGH_OTHERS)


def test_blank_lines_cost_nothing_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"\n" * 30_000_000 + b" \r\n\t[1]\n")
    began = process_time()
    done = attnprof("predict", "--calls", str(path), "--gpu", "h100")
    assert (done.code, f"{path}:30000002: expected a JSON object" in done.err) == (2, True)
    assert process_time() - began < 10


def test_lines_are_numbered_as_they_stand_whatever_is_read_at_once() -> None:
    text = b"\n\n{a}\n \n{b}\n\n\n{c}"
    for size in (1, 2, 3, 100):
        file = io.BytesIO(text)
        found = list(written_lines(lambda _, file=file, size=size: file.read(size), 1 << 10))
        assert found == [(3, b"{a}"), (5, b"{b}"), (8, b"{c}")]
    with pytest.raises(ValueError, match="3: a line of more than 10 bytes"):
        list(written_lines(io.BytesIO(b"\n\n" + b"x" * 11).read, 10))
