"""What makes a call cheap to record must not record another call, nor change how a function is called."""

from __future__ import annotations

import inspect
import json
import os
import types
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from attnprof.capture.saved_calls import Memory, read_journal
from attnprof.instrument import flash_attn, instrument, recorder, sdpa, slots
from attnprof.instrument.alike import alike, equal, placed, same, shaped, unwritten
from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.forwarding import named_alone, standing_before
from attnprof.instrument.journal import Journal
from attnprof.instrument.recorder import Recorder

Q, K, V = (torch.rand(2, 4, length, 8) for length in (1, 5, 5))


def written(made: Recorder, tmp_path: Path) -> list[dict[str, Any]]:
    made.write(tmp_path / "calls.jsonl")
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def every_kind(a, b, /, c=3, *rest, d, e=5, **more):
    return a, b, c, rest, d, e, more


def names_alone(a, b=(2, 3), *, c=None):
    return a, b, c


def one(a, /):
    return a


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (every_kind, (1, 2), {"d": 4}),
        (every_kind, (1, 2, 7, 8, 9), {"d": 4, "e": 0, "f": 6}),
        (every_kind, (1, 2), {"d": 4, "a": 1}),
        (every_kind, (1,), {"d": 4}),
        (every_kind, (1, 2), {}),
        (names_alone, (1,), {}),
        (names_alone, (1,), {"b": 5, "c": 6}),
        (names_alone, (), {"a": 2}),
        (names_alone, (1, 2, 3), {}),
        (names_alone, (1,), {"x": 1}),
        (one, (4,), {}),
        (one, (), {"a": 4}),
    ],
)
def test_a_function_is_called_as_without_what_stands_before_it(function, args, kwargs):
    def outcome(call: Callable[..., Any]) -> Any:
        try:
            return call(*args, **kwargs)
        except TypeError:
            return "TypeError"

    seen = list[Any]()
    body = "    _attnprof_seen.append({first})\n    return _attnprof_original({handed})"
    made = standing_before(function, body, seen=seen)
    assert outcome(made) == outcome(function)
    assert bool(seen) == (outcome(function) != "TypeError")
    assert inspect.signature(made) == inspect.signature(function)
    assert (made.__name__, made.__module__, made.__wrapped__) == (function.__name__, __name__, function)


def test_a_function_is_forwarded_to_by_its_code_whatever_it_says_of_itself():
    def named(a, b=2):
        return a, b

    named.__signature__ = inspect.signature(lambda x, *y: 0)  # type: ignore[attr-defined]
    made = standing_before(named, "    return _attnprof_original({handed})")
    assert (made(1), made(b=3, a=1)) == ((1, 2), (1, 3))
    assert named_alone(named) == ("a", "b")


@pytest.mark.parametrize("other", [len, torch.add, lambda *args: args, lambda: 1, lambda _attnprof_x: 1])
def test_nothing_stands_before_what_has_no_parameter_of_its_own(other):
    assert standing_before(other, "    return {first}") is None


def test_each_question_is_about_its_own_argument():
    held, lengths = object(), torch.zeros(3, dtype=torch.int32)
    numbers = [equal(0.5), equal(True), equal("a")]
    ask = alike(7, [placed(Q), shaped(K), same(held), *numbers, unwritten(lengths)])
    like = (Q.clone(), K.clone(), held, 0.5, True, "a", lengths)
    assert ask(*like) == 7
    others = (
        [Q[:1], Q.double(), Q.to("meta"), torch.nn.Parameter(Q), None], [K[:, :, :2], 3], [object()],
        [0.25, None, torch.tensor(0.5)], [1, False], ["b"], [lengths.clone(), None],
    )  # fmt: skip
    for at, values in enumerate(others):
        for value in values:
            assert ask(*like[:at], value, *like[at + 1 :]) == 0
    assert ask(*like) == 7
    lengths += 1
    assert ask(*like) == 0


def transformed() -> list[Callable[[], Any]]:
    """The same call of the same tensors, where torch traces or transforms it, or another looks on."""

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    def below_a_mode() -> Any:
        with Mode():
            return F.scaled_dot_product_attention(Q, K, V)

    def call(q: Any = Q) -> Any:
        return F.scaled_dot_product_attention(q, K, V)

    batched = Q.expand(3, *Q.shape)
    return [
        below_a_mode,
        lambda: torch.vmap(call)(batched),
        lambda: torch.jit.trace(call, Q, check_trace=False)(Q),
        lambda: torch.func.grad(lambda q: call(q).sum())(Q),
    ]


@pytest.mark.parametrize("number", range(4), ids=["mode", "vmap", "trace", "grad"])
def test_no_call_is_taken_for_the_last_one_where_torch_does_more_with_it(number, monkeypatch):
    made, told = Recorder(), list[Any]()
    with instrument(made):
        F.scaled_dot_product_attention(Q, K, V)
        monkeypatch.setattr(sdpa, "_is_foreign", lambda given: bool(told.append(given)))
        F.scaled_dot_product_attention(Q, K, V)
        assert not told
        transformed()[number]()
    assert told


def test_a_nested_tensor_after_an_ordinary_one_is_another_call(tmp_path):
    made = Recorder()
    nested = torch.nested.nested_tensor([torch.ones(4, n, 8) for n in (3, 5)])
    with instrument(made):
        for q in (K, nested, K):
            F.scaled_dot_product_attention(q, q, q)
    assert [call["q"] for call in written(made, tmp_path)] == [[2, 4, 5, 8], [2, 4, -1, 8], [2, 4, 5, 8]]


def test_a_tensor_for_a_number_and_a_number_for_a_tensor_are_not_compared(tmp_path):
    interface: Any = types.ModuleType(flash_attn.INTERFACES[0])
    interface.flash_attn_gpu = types.SimpleNamespace(__name__="flash_attn_2_cuda", fwd=lambda *a: None)
    made = Recorder()
    flash_attn.patch(made, interface)
    call = interface.flash_attn_gpu.fwd
    given = [Q, K, V, None, None, 0.0, 0.1, True, -1, -1, 0.0, False, None]
    for at, value in ((5, torch.ones(2)), (4, torch.ones(2)), (7, 1), (0, 3)):
        call(*given)
        call(*given)
        call(*given[:at], value, *given[at + 1 :])
    found = written(made, tmp_path)
    assert [call.get("alibi") for call in found[3:6]] == [False, False, True]
    assert len(found) == 12
    assert ["not_described" in call for call in found] == [False] * 11 + [True]


def test_what_one_argument_of_an_engine_differs_in_is_told_apart(tmp_path):
    module, made = types.ModuleType("engine"), Recorder()

    def attend(q, k, *, lengths, window=(-1, -1), scale=1.0, flag=False, out=None):
        return q, k, lengths, window, scale, flag, out

    def read(known: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
        left, right = given["window"]
        more = {"window_left": left, "window_right": right, "scale": given["scale"], "causal": given["flag"]}
        return "engine", "fwd", taken(given["q"], given["k"], given["k"], **more)

    module.attend = attend  # type: ignore[attr-defined]
    entry_point.patch(made, module, "attend", "engine", read)
    recorded: Any = module.attend  # type: ignore[attr-defined]
    assert inspect.signature(recorded) == inspect.signature(attend)
    made.begin_step("decode", 1, 5, 1)
    lengths = torch.zeros(2, dtype=torch.int32)
    others: list[dict[str, Any]] = [
        {"window": [3, 0]}, {"window": [7, 0]}, {"scale": 0.5}, {"flag": True}, {"q": K}, {"k": K.double()},
        {"lengths": lengths.clone()}, {"out": Q}, {"out": K},
    ]  # fmt: skip
    usual = {"q": Q, "k": K, "lengths": lengths}
    for other in others:
        recorded(**usual)
        assert recorded(**usual | other)[0] is (usual | other)["q"]
    found = written(made, tmp_path)
    assert all(call["window"] == [-1, -1] for call in found[::2])
    told = [(call["window"][0], call["scale"], call["causal"], call["q"][2]) for call in found[1::2]]
    assert told == [
        (3, 1.0, False, 1), (7, 1.0, False, 1), (-1, 0.5, False, 1), (-1, 1.0, True, 1), (-1, 1.0, False, 5),
        *[(-1, 1.0, False, 1)] * 4,
    ]  # fmt: skip


def test_an_engines_function_compiles_as_alone():
    module, made = types.ModuleType("engine"), Recorder()

    def attend(q, k, window=(-1, -1)):
        return (q * k).sum() + window[0]

    module.attend = attend  # type: ignore[attr-defined]
    entry_point.patch(made, module, "attend", "engine", lambda known, given: ("e", "fwd", {}))
    compiled = torch.compile(lambda q: module.attend(q, k=q), backend="eager", fullgraph=True)
    assert compiled(Q).equal(attend(Q, Q))
    assert made.num_calls == 0


def test_slots_hold_what_fits_and_none_for_what_does_not():
    step, layer = (1 << 28) - 2, (1 << 12) - 2
    assert slots.opened(slots.of_step(step) | slots.of_layer(layer) | 9) == (9, step, layer)
    assert slots.opened(slots.of_step(step + 1) | slots.of_layer(layer + 1) | 9) == (9, None, None)
    assert slots.opened(slots.of_step(0) | slots.MOST_KINDS) == (slots.MOST_KINDS, 0, None)


def test_calls_go_on_in_the_processs_own_memory_where_the_journals_is_full(monkeypatch, tmp_path):
    memory = Memory()
    made = Recorder(None, Journal(*memory.pass_fds))
    like = ((1, 4, 3, 8),) * 3 + ("torch.float32", "cpu", None, 0.0, True, None, False, None)
    kind = made.kind(sdpa.describe, like)

    def refuse(*_: int) -> None:
        raise OSError("out of memory")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    room = (1 << 20) // 8 - 1
    for _ in range(room + 5):
        made.begin_call(kind)
    assert isinstance(made._slots.memory, array)
    assert made.num_calls == made.write(tmp_path / "calls.jsonl") == room + 5
    assert len(read_journal(*memory.pass_fds).calls) == room
    memory.close()


def test_more_kinds_than_slots_tell_apart_are_not_described(monkeypatch, tmp_path):
    monkeypatch.setattr(recorder, "MOST_KINDS", 5)
    made = Recorder()
    with instrument(made):
        for length in range(1, 9):
            F.scaled_dot_product_attention(Q, K, V, scale=float(length))
    found = written(made, tmp_path)
    assert [call.get("scale") for call in found] == [1.0, 2.0, 3.0, 4.0, None, None, None, None]
    assert {call.get("not_described") for call in found[4:]} == {"more kinds of calls than 3"}
