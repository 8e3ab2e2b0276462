"""Calls that differ in batch and lengths alone: what they share is gone through once; no answer changes."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.calls import call_files, calls_alike
from attnprof.calls.call_files import parse_call, parse_object
from attnprof.calls.calls_alike import CallsAlike
from attnprof.dispatch.libraries import alike, predict
from attnprof.dispatch.library import Launched
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction
from tests.conftest import golden_rows

H100 = gpu_by_name("h100")
CALL = {
    "library": "flash_attn", "entry": "fwd", "batch": 3, "seqlen_q": 1, "seqlen_k": 4096, "num_heads": 28,
    "num_heads_k": 4, "head_dim": 128, "causal": True,
}  # fmt: skip
FILES = (
    "fa2_edges_2.8.3",
    "fa2_launches_2.2.4",
    "fa2_launches_2.5.6",
    "torch_launches_2.13.0",
    "torch_edges_2.4.1",
)


def whole(answer: Prediction | Launched) -> Prediction:
    """An answer as the Prediction that it stands for."""
    if isinstance(answer, Prediction):
        return answer
    num_splits, launches = answer
    return Prediction(tuple(KernelLaunch(*fields) for fields in launches), num_splits)


def lengths_near(call: AttentionCall, draw: random.Random) -> tuple[int, int, int]:
    """A batch and lengths at which something may change: the window, blocks, empty sequences, a full grid."""
    edges = [0, 1, 2, 63, 64, 65, 128, 256, 257, call.num_heads, call.seqlen_q, call.seqlen_k, *call.window]
    near = [max(0, draw.choice(edges) + draw.choice((-1, 0, 0, 1))) for _ in range(2)]
    return draw.choice((0, 1, 2, call.batch, 65_535, draw.randint(1, 400))), near[0], near[1]


@pytest.mark.parametrize("name", FILES)
def test_an_answer_among_many_is_the_one_that_a_call_gets_alone(name: str) -> None:
    draw = random.Random(name)
    kinds: set[tuple[str | None, int]] = set()
    for row in draw.sample(golden_rows(f"{name}.jsonl.gz"), 120):
        call, gpu, version = parse_call(row)
        answer_to = alike(call, gpu, version)
        for batch, seqlen_q, seqlen_k in (lengths_near(call, draw) for _ in range(12)):
            asked = replace(call, batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
            expected = predict(asked, gpu, version)
            assert whole(answer_to(batch, seqlen_q, seqlen_k)) == expected, asked
            kinds.add((expected.error, len(expected.launches)))
    assert {count for _, count in kinds} == {0, 1, 2}
    assert len(kinds) > 4, "refusals are among them"


def test_packed_queries_of_another_number_than_sequences_are_refused_among_many_too() -> None:
    call = AttentionCall("flash_attn", "varlen_fwd", 5, 1, 100, 8, 2, 128, total_q=5)
    answer_to = alike(call, H100)
    refused = [whole(answer_to(batch, 1, 100)).error for batch in (4, 5, 6)]
    assert refused == [predict(replace(call, batch=batch), H100).error for batch in (4, 5, 6)]
    assert [error is None for error in refused] == [False, True, False]


def test_what_lines_share_is_prepared_once() -> None:
    asked: list[tuple[AttentionCall, Gpu, str | None]] = []
    read = CallsAlike(lambda *call: asked.append(call) or len(asked), H100).read  # type: ignore[func-returns-value]
    text = json.dumps(CALL)
    other = text.replace("bf16", "fp16").replace('"causal": true', '"causal": false')
    lines = [
        re.sub(r'("batch"|"seqlen_k"): \d+', rf"\1: {n}", each)
        for n in range(1, 50)
        for each in (text, other)
    ]
    found = [read(line.encode()) for line in lines]
    assert found == [(which, n, 1, n) for n in range(1, 50) for which in (1, 2)]
    assert [call.causal for call, _, _ in asked] == [True, False]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_line_is_read_as_it_is_alone(data: st.DataObject) -> None:
    odd = st.sampled_from([None, -1, True, 1 << 31, 1 << 40, 0.5, 1.0, "x", "7", [], [3], {}, {"batch": 5}])
    number = st.integers(0, 1 << 12)
    lines = []
    read = CallsAlike(lambda call, gpu, version: (call, gpu, version), H100).read
    for _ in range(data.draw(st.integers(1, 8))):
        line: dict[str, Any] = CALL | {name: data.draw(number) for name in ("batch", "seqlen_q", "seqlen_k")}
        for name in data.draw(st.sets(st.sampled_from([*call_files.FIELDS, "comment"]), max_size=2)):
            line[name] = data.draw(odd)
        line = {name: line[name] for name in data.draw(st.permutations(list(line)))}
        line = {"call": line, "batch": 8} if data.draw(st.booleans()) else line
        text = json.dumps(line, separators=data.draw(st.sampled_from([(", ", ": "), (",", ":")])))
        again = data.draw(st.sampled_from(["", ', "batch": 7}', ', "seqlen_k": 8, "x": "\\"batch\\": 4"}']))
        lines.append(text[:-1] + again if again else text)
    for line in [*lines, *reversed(lines)]:
        assert outcome(lambda line=line: one_call(read(line.encode()))) == outcome(
            lambda line=line: parse_call(parse_object(line.encode()), H100)
        )


def one_call(
    read: tuple[tuple[AttentionCall, Gpu, str | None], int, int, int],
) -> tuple[AttentionCall, Gpu, str | None]:
    (call, gpu, version), batch, seqlen_q, seqlen_k = read
    return replace(call, batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k), gpu, version


def outcome(read: Any) -> Any:
    """What was read, each field with its type, or the error."""
    try:
        call, gpu, version = read()
    except UsageError as error:
        return error.message, error.hint
    return [repr(getattr(call, name)) for name in call.__slots__], gpu, version


class Noting(dict[str, Any]):
    """A call whose fields that are asked for are noted."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def test_every_field_that_enters_a_call_tells_calls_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_files, "_plain_call", lambda fields: None)
    noting = Noting(CALL)
    parse_call(noting, H100)
    assert noting.asked - {"call"} <= set(call_files.FIELDS)
    assert {*call_files._SHAPE, *call_files._COUNTS} <= set(call_files.FIELDS)


def test_a_usual_call_keeps_what_an_unusual_one_does() -> None:
    for name in ("has_qv", "pack_gqa", "cuda_graph", "scheduler_metadata"):
        call = call_files._plain_call(CALL | {name: True})
        assert call is not None
        assert getattr(call, name) is True


def test_what_is_remembered_has_an_end_and_lines_all_unlike_are_no_longer_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls_alike, "_MOST", 5)
    monkeypatch.setattr(calls_alike, "_TRIED", 20)
    reader = CallsAlike(lambda call, gpu, version: call.head_dim, H100)
    for head_dim in range(1, 60):
        line = json.dumps(CALL | {"head_dim": head_dim}).encode()
        assert reader.read(line)[0] == head_dim
        assert len(reader.lines) <= 5
        assert len(reader.calls) <= 5
    assert reader.unlike == 21
