"""Events of a torch trace read by the block are those read one by one, whatever is odd about them."""

from __future__ import annotations

import gzip
import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnprof.errors import TraceError
from attnprof.trace import json_stream, torch_json
from attnprof.trace.torch_json import read_torch_json
from tests.conftest import SHARED, TESTS

blocks = pytest.importorskip("attnprof.trace.torch_blocks")

REAL = sorted({
    path.name: path
    for folder in (SHARED / "traces", TESTS / "data" / "traces")
    for path in folder.glob("torch_*.json.gz")
}.values())  # fmt: skip


def differs(one: object, other: object, at: str = "trace") -> str:
    """Where two values of the same make differ; "" where they do not."""
    if type(one) is not type(other):
        return at
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        return "" if one.dtype == other.dtype and np.array_equal(one, other) else at
    if is_dataclass(one):
        found = (differs(getattr(one, f.name), getattr(other, f.name), f"{at}.{f.name}") for f in fields(one))
        return next(filter(None, found), "")
    return "" if one == other else at


def read(path: Path, gzipped: bool = False) -> object:
    try:
        return read_torch_json(path, gzipped=gzipped)
    except TraceError as error:
        return error.message, error.hint


def both(path: Path, gzipped: bool = False) -> tuple[object, object, int]:
    """What is read by the block and one by one, and how many events the blocks took."""
    taken = 0

    class Counted(blocks.Blocks):
        def take(self, text: str) -> bool:
            nonlocal taken
            done = super().take(text)
            taken += done * text.count('"ph"')
            return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "Blocks", Counted)
        quickly = read(path, gzipped)
        patch.setattr(torch_json, "_blocks", lambda rows: None)
        return quickly, read(path, gzipped), taken


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_traces_are_read_alike_and_nearly_all_by_the_block(path):
    quickly, slowly, taken = both(path, gzipped=True)
    assert not isinstance(slowly, tuple)
    assert differs(quickly, slowly) == ""
    assert taken > 0.9 * gzip.decompress(path.read_bytes()).count(b'"ph"')


USUAL = {
    "ph": st.just('"X"'),
    "cat": st.sampled_from([
        '"kernel"', '"Kernel"', '"gpu_memcpy"', '"cuda_runtime"', '"user_annotation"', '"cpu_op"', '"ac2g"',
        '"python_function"', '"operator"',
    ]),
    "name": st.sampled_from([
        '"k"', '"attnprof:decode:3"', '"aten::_scaled_dot_product_flash_attention"', '"aten::mm"',
        '"é\\u00e9"',
        '"nn.Module: Qwen2MLP_3"', '"\\ud83d\\ude00"',
    ]),
    "ts": st.sampled_from(["7", "1365627862757.064", "12.5", "0", "999999999999999", "5.1234", "5.0005"]),
    "dur": st.sampled_from(["1", "0.001", "87.41"]),
    "pid": st.integers(0, 1 << 33).map(str),
    "tid": st.integers(-5, 1 << 33).map(str),
}  # fmt: skip
ODD = st.sampled_from([
    "null", "true", "NaN", "-1", "-0.5", "1e3", "1.5", '"12"', '"x"', '" 7"', '""', "[]", "{}", "[1, 2, 3]",
    "[1, true, 3]", "[1, 2, 99999999999999999999]", "9223372036854775807", "9223372036854775.807",
    "9223372036854775808", "4611686018427387904", '"\\ud800"', '"a\tb"', "Infinity", "[[1]]", '{"a": 1}',
    "-9223372036854775808", "01", '"\\q"', "[1,,2]", "tru", "5.", "12 13", '"\r\n"', '"\x00"', '"\xff"',
])  # fmt: skip
MORE = ("args", "c\\u0061t", "graph id", "name", "str", "annotation", "layer", "phase")
ARGUMENTS = {
    "device": st.integers(0, 9).map(str),
    "stream": st.integers(0, 9).map(str),
    "correlation": st.integers(-2, 1 << 40).map(str),
    "grid": st.sampled_from(["[1, 2, 3]", "[1,2,3]", "[4, 5]", "[0, 0, 0]"]),
    "block": st.sampled_from(["[128, 1, 1]", "null"]),
    "graph node id": st.integers(-1, 9).map(str),
    "Input Dims": st.just("[[1, 2], []]"),
}


def an_object(known: dict, rarely: st.SearchStrategy) -> st.SearchStrategy:
    pair = st.one_of(
        *(st.tuples(st.just(key), value) for key, value in known.items()),
        *(st.tuples(st.just(key), value) for key, value in known.items()),
        st.tuples(st.sampled_from([*known, *MORE, "z"]), rarely),
    )
    whole = st.tuples(*(st.tuples(st.just(key), value) for key, value in known.items()))
    chosen = st.one_of(
        whole, st.tuples(whole, st.lists(pair, max_size=2)).map(lambda two: (*two[0], *two[1]))
    )
    some = st.one_of(chosen, chosen, st.lists(pair, max_size=5))
    return some.map(lambda pairs: "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}")


def events(rarely: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(
        an_object({**USUAL, "args": an_object(ARGUMENTS, rarely)}, rarely), min_size=1, max_size=8
    )


def written(path: Path, some: list[str], between: str = ",\n", end: str = "}") -> Path:
    text = '{"schemaVersion": 1, "traceEvents": [' + between.join(some) + "]" + end
    path.write_bytes(text.encode("latin-1", "replace") if "\xff" in text else text.encode())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks") / "trace.json"


@pytest.mark.parametrize("rarely", [st.just("1"), ODD], ids=["usual", "odd"])
@pytest.mark.parametrize("chunk", [1 << 17, 64])
def test_drawn_events_are_read_alike(path, monkeypatch, rarely, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        events(rarely),
        st.sampled_from([",\n", ",", " , ", ", "]),
        st.sampled_from(["}", "", "]}", ', "a": [{}, {}]}']),
    )
    def alike(some, between, end):
        quickly, slowly, _ = both(written(path, some, between, end))
        assert differs(quickly, slowly) == "", (quickly, slowly)

    alike()


def test_what_is_usual_is_taken_by_the_block(path):
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 12.5, "dur": 1, "args": {}}
    quickly, slowly, taken = both(written(path, [json.dumps(kernel)] * 50))
    assert differs(quickly, slowly) == ""
    assert taken == 49  # the last has none behind it


def test_a_trace_cut_anywhere_is_told_alike(path):
    event = json.dumps({"ph": "X", "cat": "kernel", "name": "é" * 9, "ts": 1}, ensure_ascii=False)
    whole = written(path, [event] * 4).read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        quickly, slowly, _ = both(path)
        assert quickly == slowly


def test_bytes_become_the_text_that_open_would_give(path):
    for content in (
        b"plain",
        b"a\r\nb\rc\r",
        b"\xff\xe2\x82\xac\xe2\x82",
        "aé\u20ac".encode() * 3,
        b"\r\r\n",
        b"",
    ):
        path.write_bytes(content)
        expected = path.read_text(encoding="utf-8", errors="replace")
        for size in range(1, 5):
            with path.open("rb") as file:
                text = json_stream.Utf8(file)
                assert "".join(iter(lambda text=text, size=size: text.read(size), "")) == expected


TIMES = st.one_of(
    st.integers(0, 1 << 64).map(str),
    st.tuples(st.integers(0, 1 << 58).map(str), st.text("0123456789", min_size=1, max_size=4)).map(".".join),
    st.sampled_from([
        "1695835801547123", "1695835801547123.456", "8999999999999999.999", "9000000000000000", "-1.5", "1e3",
        '"5 6"', "null", "9223372036854775.808",
    ]),
)  # fmt: skip


@given(st.lists(TIMES, min_size=1, max_size=6))
def test_times_of_a_block_are_those_of_single_events(texts):
    def told(read):
        try:
            return read()
        except (ArithmeticError, ValueError) as error:
            return type(error)

    raw = [blocks.Raw(text.encode()) for text in texts]
    each = [blocks._JSON.decode(text) for text in texts]
    assert told(lambda: blocks._times(raw).tolist()) == told(
        lambda: blocks.np.array([blocks.nanoseconds(one) for one in each], "q").tolist()
    )
