"""Attention calls of every kind: each computes, warns and raises recorded as it does alone, and is kept.

A row is a name, what is called, and what its record must hold: a field's value, or "not_described" and a part
of the reason.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from attnprof.calls.records import read_records
from attnprof.capture.saved_calls import Memory
from attnprof.instrument import instrument
from attnprof.instrument.journal import Journal
from attnprof.instrument.recorder import Recorder

Q = torch.linspace(-1, 1, 1 * 4 * 3 * 8).reshape(1, 4, 3, 8)


class Logging(torch.Tensor):
    """Overrides torch's functions and writes down which."""

    seen: list[str]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Logging.seen.append("the attention" if func is F.scaled_dot_product_attention else func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


class Mode(torch.overrides.TorchFunctionMode):
    """Writes down what is called below it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append("the attention" if func is F.scaled_dot_product_attention else func.__name__)
        return func(*args, **(kwargs or {}))


class Operators(torch.utils._python_dispatch.TorchDispatchMode):
    """Writes down the operators that run below it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Scaled(torch.Tensor):
    """Hands twice its value to the library."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        inner = torch.utils._pytree.tree_map_only(Scaled, lambda t: t.inner * 2, (args, kwargs or {}))
        return func(*inner[0], **inner[1])


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


def below(mode: type, call: Callable[[], Any] = lambda: F.scaled_dot_product_attention(Q, Q, Q)) -> list[str]:
    with mode() as watching:
        watching.seen = []
        call()
    return watching.seen


def logged() -> list[str]:
    q, Logging.seen = Q.as_subclass(Logging), []
    F.scaled_dot_product_attention(q, q, q)
    return list(Logging.seen)


def traced() -> str:
    module = torch.jit.trace(lambda q: F.scaled_dot_product_attention(q, q, q), Q)
    return module.graph.str(False)  # without the lines it came from


def scripted() -> Any:
    @torch.jit.script
    def attend(q: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, q, q)

    return attend(Q), attend.graph.str(False)


def symbolic() -> str:
    def attend(q):
        return F.scaled_dot_product_attention(q, q, q)

    return str(torch.fx.symbolic_trace(attend).graph)


def made_fx(mode: str) -> str:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(lambda q: F.scaled_dot_product_attention(q, q, q), tracing_mode=mode)(Q).code


def checkpointed(reentrant: bool) -> Any:
    q = Q.clone().requires_grad_()
    out = checkpoint(lambda t: F.scaled_dot_product_attention(t, t, t).sin(), q, use_reentrant=reentrant)
    out.sum().backward()
    return q.grad


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(1, 4, 3, 8)
        return F.scaled_dot_product_attention(q, q, q).shape


def jagged() -> Any:
    q = torch.nested.nested_tensor([torch.ones(n, 4, 8) for n in (3, 5)], layout=torch.jagged)
    q = q.transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q).values()


def strided() -> Any:
    q = torch.nested.nested_tensor([torch.ones(4, n, 8) for n in (3, 5)])
    return [part.clone() for part in F.scaled_dot_product_attention(q, q, q).unbind()]


def pickled() -> Any:
    again = pickle.loads(pickle.dumps(F.scaled_dot_product_attention))
    assert copy.deepcopy(F.scaled_dot_product_attention) is F.scaled_dot_product_attention
    assert again is F.scaled_dot_product_attention
    return again(Q, Q, Q)


def saved() -> Any:
    saved = io.BytesIO()
    torch.save(functools.partial(F.scaled_dot_product_attention, is_causal=True), saved)
    saved.seek(0)
    return torch.load(saved, weights_only=False)(Q, Q, Q)


class Lying:
    """Raises at every question."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}\n  " + "x" * 1000)


def attend(*args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: F.scaled_dot_product_attention(*args, **kwargs)


def with_default_device() -> Any:
    with torch.device("cpu"):
        return F.scaled_dot_product_attention(Q, Q, Q)


@dataclass(frozen=True)
class Row:
    name: str
    call: Callable[[], Any]
    known: dict[str, Any] = field(default_factory=dict)
    calls: int = 1


NOT, RAISED = "not_described", "raised"
META = torch.empty(1, 2, 1 << 40, 8, device="meta")
COMPLEX = Q.to(torch.complex64)
ROWS = [
    Row("plain", attend(Q, Q, Q), {"q": [1, 4, 3, 8], "scale": None}),
    Row("by name", attend(query=Q, key=Q, value=Q, is_causal=True), {"causal": True}),
    Row("all by position", attend(Q, Q, Q, None, 0.0, True), {"causal": True}),
    Row("scale", attend(Q, Q, Q, scale=0.5), {"scale": 0.5}),
    Row("scale nan", attend(Q, Q, Q, scale=float("nan")), {"scale": "nan"}),
    Row("scale inf", attend(Q, Q, Q, scale=float("inf")), {"scale": "inf"}),
    Row("scale 1e308", attend(Q, Q, Q, scale=1e308), {"scale": 1e308}),
    Row("scale integer", attend(Q, Q, Q, scale=2), {"scale": 2.0}),
    Row("scale huge integer", attend(Q, Q, Q, scale=10**400), {RAISED: "OverflowError"}),
    Row("scale tensor", attend(Q, Q, Q, scale=torch.tensor(0.5)), {"scale": "a Tensor"}),
    Row("scale text", attend(Q, Q, Q, scale="secret"), {"scale": "a str", RAISED: "TypeError"}),
    Row("dropout nan", attend(Q, Q, Q, dropout_p=float("nan")), {NOT: "dropout_p is nan"}),
    Row("dropout tensor", attend(Q, Q, Q, dropout_p=torch.tensor(0.0)), {NOT: "dropout_p is a Tensor"}),
    Row("causal text", attend(Q, Q, Q, is_causal="x"), {NOT: "is_causal is a str", RAISED: "TypeError"}),
    Row("numbers", attend(1, 2, 3), {NOT: "query is a int, no tensor", RAISED: "TypeError"}),
    Row("nothing", attend(), {NOT: "missing 3 required", RAISED: "TypeError"}),
    Row("too many", attend(*[Q] * 9), {NOT: "9 were given", RAISED: "TypeError"}),
    Row("unknown name", attend(Q, Q, Q, no_such=Q), {RAISED: "TypeError"}),
    Row("twice the query", attend(Q, Q, Q, query=Q), {RAISED: "TypeError"}),
    Row("raises at all", attend(Lying(), Q, Q), {NOT: "RuntimeError: no __class__ xxx"}),
    Row("shapes that do not fit", attend(Q, Q[:, :, :, :4], Q), {"k": [1, 4, 3, 4], RAISED: "RuntimeError"}),
    Row("two dimensions", attend(Q[0, 0], Q[0, 0], Q[0, 0]), {"q": [3, 8]}),
    Row("no key", attend(Q, Q[:, :, :0], Q[:, :, :0]), {"k": [1, 4, 0, 8]}),
    Row("2^40 keys", attend(META, META, META), {NOT: "1099511627776 is more than 32 bits hold"}),
    Row("meta", attend(*[Q.to("meta")] * 3), {"device": "meta", "q": [1, 4, 3, 8]}),
    Row("fake", fake, {"device": "fake cpu", "q": [1, 4, 3, 8]}),
    Row("complex", attend(COMPLEX, COMPLEX, COMPLEX), {"dtype": "complex64"}),
    Row("complex mask", attend(Q, Q, Q, COMPLEX[..., :3]), {"mask": [1, 4, 3, 3]}),
    Row("mask", attend(Q, Q, Q, torch.ones(3, 3, dtype=torch.bool)), {"mask": [3, 3]}),
    Row("mask no tensor", attend(Q, Q, Q, [[True]]), {NOT: "attn_mask is a list", RAISED: "TypeError"}),
    Row("jagged", jagged, {"q": [2, 4, -1, 8]}),
    Row("strided nested", strided, {"q": [2, 4, -1, 8]}),
    Row("parameter", attend(*[torch.nn.Parameter(Q)] * 3), {"q": [1, 4, 3, 8]}),
    Row("subclass", attend(*[Q.as_subclass(Plain)] * 3), {"q": [1, 4, 3, 8]}),
    Row("subclass that logs", logged, {"q": [1, 4, 3, 8]}),
    Row("subclass of its own operators", attend(*[Scaled(Q)] * 3), {NOT: "query is a Scaled"}),
    Row("function mode", lambda: below(Mode), {"q": [1, 4, 3, 8]}),
    Row("dispatch mode", lambda: below(Operators), {"q": [1, 4, 3, 8]}),
    Row("default device", with_default_device, {"q": [1, 4, 3, 8]}),
    Row("jit trace", traced, {"q": [1, 4, 3, 8]}, calls=3),
    Row("jit script", scripted, calls=0),
    Row("fx", symbolic, {NOT: "query is a Proxy"}),
    Row("make_fx real", lambda: made_fx("real"), {"q": [1, 4, 3, 8]}),
    Row("make_fx symbolic", lambda: made_fx("symbolic")),
    Row("vmap", lambda: torch.vmap(attend_one)(Q), {NOT: "query is inside torch.vmap"}),
    Row("grad", lambda: torch.func.grad(lambda q: attend_one(q).sum())(Q), {"q": [1, 4, 3, 8]}),
    Row("vmap of grad", lambda: torch.vmap(torch.func.grad(lambda q: attend_one(q).sum()))(Q), {NOT: "vmap"}),
    Row("checkpoint", lambda: checkpointed(False), {"q": [1, 4, 3, 8]}, calls=2),
    Row("checkpoint, reentrant", lambda: checkpointed(True), {"q": [1, 4, 3, 8]}, calls=2),
    Row("inference mode", lambda: torch.inference_mode()(attend_one)(Q), {"q": [1, 4, 3, 8]}),
    Row("pickled", pickled, {"q": [1, 4, 3, 8]}),
    Row("saved", saved, {"causal": True}),
]


def attend_one(q: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, q, q)


def outcome(call: Callable[[], Any]) -> tuple[str, list[str]]:
    """What a call returned or raised, and what it warned of, in words."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            returned = repr(call())
        except Exception as error:
            returned = f"{type(error).__name__}: {error}"
    return returned, [f"{w.category.__name__}: {w.message} {w.filename}:{w.lineno}" for w in warned]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_odd_call_is_kept_and_goes_on_as_alone(row, tmp_path):
    outcome(row.call)  # some warnings are given once in a process
    alone = outcome(row.call)
    memory = Memory()
    recorder = Recorder(None, Journal(*memory.pass_fds))
    with instrument(recorder):
        attend_one(Q)
        recorded = outcome(row.call)
        attend_one(Q)
    assert recorded == alone
    written = tmp_path / "calls.jsonl"
    recorder.write(written)
    records = [record.fields for record in read_records(written)]  # which refuses what is damaged
    assert [record["q"] for record in (records[0], records[-1])] == [[1, 4, 3, 8]] * 2
    odd = records[1:-1]
    assert len(odd) == row.calls
    for record in odd:
        for name, value in row.known.items():
            assert value in record[name] if name == NOT else record[name] == value
        assert (NOT in record) == (NOT in row.known) or RAISED in record or not row.known
        assert (RAISED in record) == ("Error" in alone[0])
        assert "secret" not in json.dumps(record)
    kept = memory.read().calls
    memory.close()
    assert [json.loads(json.dumps(call)) for call in kept] == records


def test_everything_is_put_back():
    before = F.scaled_dot_product_attention
    with instrument(Recorder()):
        inside = F.scaled_dot_product_attention
        assert inside is not before
    assert F.scaled_dot_product_attention is before
    assert inside(Q, Q, Q).equal(before(Q, Q, Q))


def test_a_model_is_traced_transformed_and_checkpointed_as_alone():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    model.requires_grad_(False)
    ids = torch.ones(1, 5, dtype=torch.long)

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens, use_cache=False).logits

    def checkpointed() -> float:
        model.train().requires_grad_(True)
        model.gradient_checkpointing_enable()
        loss = forward(ids).sum()
        loss.backward()
        model.gradient_checkpointing_disable()
        model.eval().requires_grad_(False)
        return float(loss)

    def every() -> list[tuple[str, list[str]]]:
        traced = outcome(lambda: torch.jit.trace(forward, ids, check_trace=False)(ids).shape)
        mapped = outcome(lambda: torch.vmap(forward)(ids.reshape(1, 1, 5)).shape)
        return [traced, mapped, outcome(checkpointed)]

    every()
    alone = every()
    recorder = Recorder()
    with instrument(recorder):
        recorded = every()
    assert recorded == alone
    assert "Error" not in alone[0][0] + alone[2][0]
    assert {(step["seqlen_q"], step["batch"]) for step in recorder.steps} == {(5, 1)}
