"""What a journal keeps of a process that never wrote its calls."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from attnprof.capture.saved_calls import Kept, Memory, read_journal, saved_journal
from attnprof.instrument import flash_attn, instrument, journal, sdpa
from attnprof.instrument.journal import Journal
from attnprof.instrument.recorder import Recorder, unread
from attnprof.instrument.slots import of_layer, of_step

OTHERS = ("torch.float32", "cpu", None, 0.0, True, None, False, None)  # of sdpa's arguments
Q = torch.zeros(1, 4, 3, 8)


def attend(length: int = 3) -> None:
    k = torch.zeros(1, 4, length, 8)
    torch.nn.functional.scaled_dot_product_attention(Q, k, k)


@pytest.fixture
def files() -> Iterator[tuple[int, int]]:
    made = journal.create()
    assert made is not None
    yield made
    for descriptor in made:
        os.close(descriptor)


def kept_of(files: tuple[int, int], program: Callable[[Recorder], None]) -> Kept:
    """What is kept of a program that is killed at its end, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        recorder = Recorder(None, Journal(*files))
        with instrument(recorder):
            program(recorder)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return read_journal(*files)


def test_calls_are_kept_as_they_would_have_been_written(files, tmp_path):
    written = tmp_path / "calls.jsonl"

    def program(recorder: Recorder) -> None:
        recorder.found_model({"name": "m"}, "sdpa")
        for step, length in enumerate((3, 4)):
            recorder.begin_step("decode" if step else "prefill", 3, length, 1)
            for layer in range(2):
                outer = recorder.begin_layer(layer)
                attend(length)
                recorder.end_layer(outer)
            recorder.end_step()
        recorder.note("said")
        recorder.note("said")
        attend(5)
        recorder.write(written)

    kept = kept_of(files, program)
    assert kept.calls == [json.loads(line) for line in written.read_text().splitlines()]
    assert [call["k"][2] for call in kept.calls] == [3, 3, 4, 4, 5]
    assert [step["phase"] for step in kept.steps] == ["prefill", "decode"]
    assert (kept.notes, kept.facts["model"], kept.forked) == (["said"], {"name": "m"}, 0)


def test_more_calls_and_arguments_than_there_was_room_for_at_first_are_kept(files):
    count = 100_000

    def program(recorder: Recorder) -> None:
        for number in range(count):
            recorder.begin_call(recorder.kind(sdpa.describe, ((1, 4, number // 9, 8),) * 3 + OTHERS))
            recorder.end_call()

    assert [call["q"][2] for call in kept_of(files, program).calls] == [n // 9 for n in range(count)]


def test_calls_of_several_threads_are_kept_each_with_its_own_arguments(files):
    def program(recorder: Recorder) -> None:
        def work(first: int) -> None:
            for number in range(first, first + 2000):
                recorder.begin_call(recorder.kind(sdpa.describe, ((1, 4, number, 8),) * 3 + OTHERS))
                recorder.end_call()

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 10_000, 20_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    kept = kept_of(files, program)
    assert sorted(call["q"][2] for call in kept.calls) == [
        first + number for first in (0, 10_000, 20_000) for number in range(2000)
    ]


class _OnADevice:
    """A tensor that must not be asked: comparing or reading it waits for the device."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = object.__hash__

    def __str__(self) -> str:
        raise AssertionError("read")


def test_no_value_on_a_device_is_compared_or_read(files):
    given: dict[str, Any] = {name: (_OnADevice(), 0) for name in ("cu_seqlens_q", "cu_seqlens_k")}
    given |= {name: [7, 4, 8] for name in ("q", "k", "v")}
    given |= {"dtype": torch.bfloat16, "device": torch.device("cpu"), "alibi": False, "batch": 2}
    given |= {"causal": True, "window_left": -1, "window_right": -1, "max_seqlen_q": 4, "max_seqlen_k": 4}

    def program(recorder: Recorder) -> None:
        called = ("flash_attn_2_cuda.varlen_fwd", "flash_attn", "varlen_fwd")
        for _ in range(2):
            recorder.begin_call(
                recorder.kind(flash_attn.describe, (*called, given), (*called, unread(given)))
            )
            recorder.end_call()

    first, second = kept_of(files, program).calls
    assert first == second | {"seq": 0}
    assert (first["cu_seqlens_q"], first["max_seqlen_q"], first["batch"]) == (None, 4, 2)
    assert (first["dtype"], first["layout"]) == ("bf16", "thd")


def test_calls_of_a_forked_process_are_counted_as_lost_and_disturb_no_other(files):
    def program(recorder: Recorder) -> None:
        for _ in range(2):
            attend()
            if os.fork() == 0:
                attend(9)
                os._exit(0)
            os.wait()
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        attend()

    kept = kept_of(files, program)
    assert [call["k"][2] for call in kept.calls] == [3, 3, 3]
    assert kept.forked == 2


def test_a_line_cut_by_a_kill_and_a_call_without_arguments_are_left_out(files):
    book = Journal(*files)
    for seq in range(3):
        book.kind(sdpa.describe, ((1, 4, seq, 8),) * 3 + OTHERS)
        book.slots[seq] = seq + 1
    content = os.pread(files[1], 10_000, 0).rstrip(b"\0")
    os.pwrite(files[1], b"\0" * 20, len(content) - 20)
    assert [call["q"][2] for call in read_journal(*files).calls] == [0, 1]


def test_where_no_memory_is_left_the_program_goes_on_unrecorded_by_it(files, monkeypatch):
    def refuse(*_: int) -> None:
        raise OSError("out of memory")

    recorder = Recorder(None, Journal(*files))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    for number in range(20_000):
        recorder.begin_call(recorder.kind(sdpa.describe, ((1, 4, number, 8),) * 3 + OTHERS))
    assert recorder.journal is None
    assert 5_000 < len(read_journal(*files).calls) < 20_000


def test_what_is_saved_now_and_then_is_what_the_journal_held(tmp_path, monkeypatch):
    monkeypatch.setattr("attnprof.capture.saved_calls._SAVED_EVERY_S", 0.0)
    assert saved_journal(tmp_path) is None
    memory = Memory()
    book = Journal(*memory.pass_fds)
    seq = 0
    for count in (0, 1, 1, 0, 255, 300):  # 256 arguments: a number whose lowest byte is zero
        for _ in range(count):
            book.kind(sdpa.describe, ((1, 4, seq, 8),) * 3 + OTHERS)
            book.slots[seq] = of_step(0) | of_layer(0) | seq + 1
            seq += 1
        memory.save(tmp_path)
        saved = saved_journal(tmp_path)
        assert [call["q"][2] for call in (saved.calls if saved else [])] == list(range(seq))
    assert saved_journal(tmp_path) == memory.read()
    memory.close()


def test_a_damaged_journal_is_none(tmp_path):
    (tmp_path / ".journal-calls").write_bytes(b"\1" * 50)
    (tmp_path / ".journal-texts").write_bytes(b'{"describe": "os", "arguments": [1]}\n{"x": 1}\n[]\n1\n')
    assert saved_journal(tmp_path) is None
