"""Calls that are alike are kept once: what must still tell them apart, and what must be as without it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from attnprof.capture.saved_calls import Memory, read_journal
from attnprof.instrument import flash_attn, instrument, journal
from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.journal import Journal
from attnprof.instrument.layers import Layers
from attnprof.instrument.recorder import Recorder

Q, K = torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 5, 8)


def records(recorder: Recorder, tmp_path: Path) -> list[dict[str, Any]]:
    recorder.write(tmp_path / "calls.jsonl")
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def lines_of(memory: Memory) -> int:
    return os.pread(memory.pass_fds[1], 1 << 20, 0).rstrip(b"\0").count(b"\n")


def test_a_long_run_of_two_kinds_of_layers_keeps_two_kinds(tmp_path):
    memory = Memory()
    recorder = Recorder(None, Journal(*memory.pass_fds))
    with instrument(recorder):
        before = lines_of(memory)
        for _ in range(50):
            for k in (K, K[:, :, :2]):
                F.scaled_dot_product_attention(Q, k, k, attn_mask=None, dropout_p=0.0, scale=0.5)
        assert lines_of(memory) == before + 2
    assert [call["k"][2] for call in records(recorder, tmp_path)] == [5, 2] * 50
    assert memory.read().calls == records(recorder, tmp_path)
    memory.close()


def test_what_differs_in_one_argument_of_sdpa_is_told_apart(tmp_path):
    recorder, mask = Recorder(), torch.ones(1, 5, dtype=torch.bool)
    others: list[dict[str, Any]] = [
        {"scale": 0.25}, {"is_causal": True}, {"attn_mask": mask}, {"enable_gqa": True}, {"dropout_p": 0.5},
    ]  # fmt: skip
    with instrument(recorder):
        for other in others:
            F.scaled_dot_product_attention(Q, K, K)
            F.scaled_dot_product_attention(Q, K, K, **other)
        F.scaled_dot_product_attention(Q, K, K, None, 0.0, True)
        F.scaled_dot_product_attention(Q.double(), K.double(), K.double(), None, 0.0, True)
        F.scaled_dot_product_attention(Q, K, K[..., :4])
        F.scaled_dot_product_attention(*[one.to("meta") for one in (Q, K, K)])
    found = records(recorder, tmp_path)
    assert [(c["scale"], c["causal"], c["mask"], c["enable_gqa"], c["dropout_p"]) for c in found[1:10:2]] == [
        (0.25, False, None, False, 0.0), (None, True, None, False, 0.0), (None, False, [1, 5], False, 0.0),
        (None, False, None, True, 0.0), (None, False, None, False, 0.5),
    ]  # fmt: skip
    assert len({json.dumps({**call, "seq": 0}) for call in found[0:10:2]}) == 1
    told = [(call["causal"], call["dtype"], call["v"][3], call["device"]) for call in found[10:]]
    assert told == [
        (True, "fp32", 8, "cpu"), (True, "fp64", 8, "cpu"), (False, "fp32", 4, "cpu"),
        (False, "fp32", 8, "meta"),
    ]  # fmt: skip


def test_lengths_that_are_advanced_in_place_are_another_call(tmp_path):
    interface: Any = types.ModuleType(flash_attn.INTERFACES[0])
    interface.flash_attn_gpu = types.SimpleNamespace(
        __name__="flash_attn_2_cuda", fwd_kvcache=lambda *a: a[0]
    )
    recorder = Recorder()
    flash_attn.patch(recorder, interface)
    q, cache, lengths = torch.zeros(2, 1, 4, 8), torch.zeros(2, 9, 2, 8), torch.tensor([3, 4])
    given = (q, cache, cache, None, None, lengths, *[None] * 7, 0.1, True, -1, -1, 0.0, True, 0)
    for _ in range(2):
        interface.flash_attn_gpu.fwd_kvcache(*given)
        interface.flash_attn_gpu.fwd_kvcache(*given)
        lengths += 1
    interface.flash_attn_gpu.fwd_kvcache(*given)
    lengths_then = [call["cache_seqlens"] for call in records(recorder, tmp_path)]
    assert lengths_then == [None] * 4 + [[5, 6]]  # written to since: unknown rather than wrong


def an_engine(recorder: Recorder) -> Any:
    """A module with one function, recorded as an engine's are, in a step."""
    module: Any = types.ModuleType("engine")
    module.attend = lambda q, k, window=(-1, -1), pair=None: None

    def read(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
        left, right = given["window"]
        return (
            "engine",
            "fwd",
            taken(given["q"], given["k"], given["k"], window_left=left, window_right=right),
        )

    entry_point.patch(recorder, module, "attend", "engine", read)
    recorder.begin_step("decode", 1, 5, 1)
    return module


def test_a_layer_on_another_device_is_another_call_of_the_step(tmp_path):
    recorder = Recorder()
    engine = an_engine(recorder)
    for device in ("cpu", "meta", "meta", "cpu"):
        engine.attend(Q.to(device), K.to(device))
    assert [call["device"] for call in records(recorder, tmp_path)] == ["cpu", "meta", "meta", "cpu"]


def test_a_list_that_was_written_to_and_tensors_in_a_tuple_are_told(tmp_path):
    recorder, window = Recorder(), [3, 0]
    engine = an_engine(recorder)
    engine.attend(Q, K, window)
    window[0] = 7
    engine.attend(Q, K, window)
    for _ in range(2):  # comparing these would raise, or wait for a device
        engine.attend(Q, K, window, pair=(torch.ones(2), torch.ones(2)))
    found = records(recorder, tmp_path)
    assert [call["window"] for call in found] == [[3, 0], [7, 0], [7, 0], [7, 0]]
    assert not any("not_described" in call for call in found)


def test_a_forked_process_writes_the_kinds_that_were_known_before_it(tmp_path):
    files = journal.create_files(str(tmp_path / "child"))
    recorder = Recorder(None, None, lambda: Journal(*files))
    with instrument(recorder):
        F.scaled_dot_product_attention(Q, K, K)
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)
            for k in (K[:, :, :2], K, K):
                F.scaled_dot_product_attention(Q, k, k)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    kept = read_journal(*files)
    for descriptor in files:
        os.close(descriptor)
    assert [(call["seq"], call["k"][2]) for call in kept.calls] == [(0, 2), (1, 5), (2, 5)]
    assert [call["k"][2] for call in records(recorder, tmp_path)] == [5]


class Base(torch.nn.Module):
    def forward(self, hidden: Any, *, recorder: Recorder) -> Any:
        return recorder.context.here.layer


class Block(Base):
    def forward(self, hidden: Any, *, recorder: Recorder) -> Any:
        return super().forward(hidden, recorder=recorder)


class Ranges:
    """Writes down what is pushed and popped."""

    active = True

    def __init__(self) -> None:
        self.seen: list[int | None] = []

    def channel(self, message: str) -> Any:
        seen = self.seen if message == "layer" else []
        return types.SimpleNamespace(push=seen.append, pop=lambda: seen.append(None))


def test_a_layer_is_open_in_its_block_alone_and_once():
    ranges = Ranges()
    recorder = Recorder(ranges)
    layers, blocks = Layers(recorder), [Block(), Base(), Block(), Block()]
    original = Block.forward, Base.forward
    own = blocks[3].forward
    blocks[3].forward = lambda *args, **kwargs: own(*args, **kwargs)  # type: ignore[method-assign]
    for number, block in enumerate(blocks):
        layers.watch(block, number)
    x = torch.zeros(1)
    assert [block(x, recorder=recorder) for block in blocks] == [0, 1, 2, 3]
    assert ranges.seen == [0, None, 1, None, 2, None, 3, None]
    assert (Block()(x, recorder=recorder), recorder.context.here.layer) == (None, None)
    again = copy.deepcopy(blocks[0])
    assert again(x, recorder=recorder) is None  # another block, of nobody's layers
    assert pickle.loads(pickle.dumps(blocks[1]))(x, recorder=recorder) is None
    layers.remove()
    assert (Block.forward, Base.forward) == original
    assert [block(x, recorder=recorder) for block in blocks] == [None] * 4


def test_a_layer_is_closed_where_its_block_raises():
    recorder = Recorder(Ranges())
    layers, block = Layers(recorder), Block()
    layers.watch(block, 4)
    with pytest.raises(TypeError):
        block(torch.zeros(1))
    assert recorder.context.here.layer is None
    layers.remove()
