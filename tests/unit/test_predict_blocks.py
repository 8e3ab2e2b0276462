"""Calls of a file are answered in blocks: each as it would be alone, in order, errors at their line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnprof.calls import call_files
from attnprof.calls.call_files import parse_call
from attnprof.commands import predict as command
from attnprof.dispatch.libraries import LIBRARIES, library, predict
from attnprof.errors import AttnprofError, UsageError
from attnprof.gpus import gpu_by_name
from tests.support.command import attnprof

GPU = {name: "mi300x" if library(name).vendor == "amd" else "h100" for name in LIBRARIES}
NO_GPU = {"gpu": None, "sms": None, "sm": None, "version": None}


@st.composite
def fields(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A call of a library as a line has it, mostly one that it takes."""
    heads_k = draw(st.sampled_from([1, 4, 8]))
    line = {
        "library": name,
        "entry": draw(st.sampled_from(library(name).entries)),
        "batch": draw(st.sampled_from([1, 3, 8, 50, 300])),
        "seqlen_q": draw(st.sampled_from([1, 1, 1, 2, 100])),
        "seqlen_k": draw(st.integers(1, 40_000)),
        "num_heads": heads_k * draw(st.sampled_from([1, 4, 7])),
        "num_heads_k": heads_k,
        "head_dim": draw(st.sampled_from([64, 80, 128, 256, 576])),
        "device": GPU[name],
    }
    extra = {
        "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
        "causal": st.sampled_from([True, False, 1, 0]),
        "window_left": st.sampled_from([-1, 128]),
        "softcap": st.sampled_from([0.0, 30.0, 0, 5]),
        "num_splits_arg": st.sampled_from([0, 0, 1, 4]),
        "page_block_size": st.sampled_from([16, 256]),
        "page_size": st.sampled_from([16, 64]),
        "has_qv": st.booleans(),
        "cache_seqlen": st.sampled_from([None, 7]),
        "seqlens_k": st.sampled_from([[9], [5, 70, 900]]),
        "comment": st.just("not a field"),
    }
    for key in draw(st.sets(st.sampled_from(sorted(extra)), max_size=4)):
        line[key] = draw(extra[key])
    if lengths := line.get("seqlens_k"):
        line |= {"batch": len(lengths), "seqlen_k": max(lengths)}
        line |= {"seqlens_q": [line["seqlen_q"]] * len(lengths)} if draw(st.booleans()) else {}
    return line


def alone(line: dict[str, Any]) -> str:
    """The answer to one line, or the error's message."""
    try:
        call, gpu, version = parse_call(line)
        return json.dumps(command.prediction_row(predict(call, gpu, version)))
    except AttnprofError as error:
        return error.message


def in_blocks(path: Path) -> tuple[list[str], str]:
    """(the lines written, the error's message) of predict --calls."""
    out, said = io.StringIO(), ""
    with redirect_stdout(out):
        try:
            command._predict_file(path, NO_GPU)
        except AttnprofError as error:
            said = error.message
    return out.getvalue().splitlines(), said


@pytest.mark.parametrize("name", LIBRARIES)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_blocks_and_single_calls_agree(
    name: str, data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_BLOCK", data.draw(st.sampled_from([1, 2, 5, 1024])))
    lines = data.draw(st.lists(fields(name), min_size=1, max_size=12))
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    written, said = in_blocks(path)
    expected = [alone(line) for line in lines]
    assert written == expected[: len(written)]
    if len(written) < len(lines):
        assert said == f"{path}:{len(written) + 1}: {expected[len(written)]}"
    else:
        assert said == ""


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(LIBRARIES)).flatmap(fields), st.data())
def test_a_usual_call_is_read_as_any_other(line: dict[str, Any], data: st.DataObject) -> None:
    odd = st.sampled_from([None, -1, True, 1 << 31, 0.5, "x", [], {}, [1, -1]])
    for key in data.draw(st.sets(st.sampled_from(sorted(line)), max_size=1)):
        line[key] = data.draw(odd)
    quick = read(line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_files, "_plain_call", lambda fields: None)
        assert read(line) == quick


def read(line: dict[str, Any]) -> Any:
    """What a line is read as, each field with its type, or the error."""
    try:
        call, gpu, version = parse_call(line, gpu_by_name("h100"))
    except AttnprofError as error:
        return error.message, error.hint
    values = [getattr(call, name) for name in call.__slots__]
    return values, list(map(type, values)), gpu, version


def test_a_call_without_frills_is_a_usual_one() -> None:
    line = {"batch": 1, "seqlen_q": 1, "seqlen_k": 9, "num_heads": 4, "num_heads_k": 4, "head_dim": 64}
    assert call_files._plain_call(line) is not None
    assert call_files._plain_call({**line, "causal": 1}) is None
    assert call_files._plain_call({**line, "num_heads": 0}) is None


@pytest.mark.parametrize("size", [1, 2, 3, 1024])
@pytest.mark.parametrize("bad", ["not json", "[1]", '{"batch": 1}', '{"library": "none", %s}'])
def test_what_was_read_before_an_error_is_answered_first(
    size: int, bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_BLOCK", size)
    good = {"batch": 1, "seqlen_q": 1, "seqlen_k": 9, "num_heads": 4, "num_heads_k": 4, "head_dim": 64}
    text = json.dumps({**good, "device": "h100"})
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join([text, "", text, bad.replace("%s", text[1:-1]), text]))
    written, said = in_blocks(path)
    assert len(written) == 2
    assert said.startswith(f"{path}:4: ")


def test_the_other_end_of_a_pipe_may_wait_for_each_answer(tmp_path: Path) -> None:
    pipe = tmp_path / "calls.jsonl"
    os.mkfifo(pipe)
    program = [sys.executable, "-m", "attnprof", "predict", "--calls", str(pipe)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        watch = threading.Timer(120, process.kill)
        watch.start()
        assert process.stdout is not None
        line = {
            "batch": 1,
            "seqlen_q": 1,
            "num_heads": 28,
            "num_heads_k": 4,
            "head_dim": 128,
            "device": "h100",
        }
        with pipe.open("w") as file:
            for keys in (4096, 64):
                file.write(json.dumps(line | {"seqlen_k": keys}) + "\n")
                file.flush()
                assert json.loads(process.stdout.readline())["num_splits"] == (32 if keys == 4096 else 1)
        watch.cancel()
    assert process.returncode == 0


def test_an_unknown_library_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(
        '{"library": "none", "batch": 1, "seqlen_q": 1, "seqlen_k": 9, "num_heads": 4, '
        '"num_heads_k": 4, "head_dim": 64, "device": "h100"}\n'
    )
    with pytest.raises(UsageError, match=r"calls\.jsonl:1: attention library 'none' is not modelled"):
        command._predict_file(path, NO_GPU)


def test_lengths_of_another_number_of_sequences_are_refused_at_their_line(tmp_path: Path) -> None:
    call = {
        "library": "vllm_flash_attn", "entry": "varlen_fwd", "batch": 1, "seqlen_q": 1, "seqlen_k": 100,
        "num_heads": 8, "num_heads_k": 8, "head_dim": 128, "seqlens_q": [1, 1, 1], "seqlens_k": [100] * 3,
    }  # fmt: skip
    calls = tmp_path / "calls.jsonl"
    calls.write_text(f"{json.dumps({**call, 'batch': 3})}\n{json.dumps(call)}\n")
    done = attnprof("predict", "--gpu", "h100", "--calls", str(calls))
    assert done.code == 2
    assert "calls.jsonl:2: seqlens_q has 3 sequences, batch is 1" in done.err
