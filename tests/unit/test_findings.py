"""What to do: ranked by what could be saved at most, each from something observed, with a command."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attnprof import load
from attnprof.analysis.other_versions import of_other_versions, with_splits
from attnprof.analysis.roofline import RooflineRow
from attnprof.check.verdicts import CheckedCall, Verdict
from attnprof.dispatch import predict
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.model import AttentionCall
from attnprof.report.findings import _asked_for
from attnprof.report.summary import summarise
from tests.support.command import attnprof
from tests.support.generated_run import H100, LAYER_KERNELS, calls_only_run, decode_call, generated_run
from tests.support.hybrid_trace import full, hybrid_trace


def advice_of(target: Path | str) -> list[dict[str, object]]:
    run = load(target)
    return summarise(run.recording, run.check()).tables["advice"].objects()


def test_findings_are_ranked_by_what_they_could_save(tmp_path: Path) -> None:
    found = advice_of(hybrid_trace(tmp_path / "t.json", [full] * 4, steps=30))
    saves = [one["at_most_ns"] for one in found if one["at_most_ns"] is not None]
    assert len(saves) == 2
    assert saves == sorted(saves, reverse=True)
    assert len(found) <= 5
    combine = next(one for one in found if str(one["finding"]).startswith("combine less in decode"))
    assert combine["at_most_ns"] == 30 * 4 * 3_000
    for one in found:
        assert one["evidence"]
        assert shlex.split(str(one["command"]))[0] in ("attnprof", "ncu")


def test_without_splits_there_is_no_combine_to_save(tmp_path: Path) -> None:
    found = advice_of(hybrid_trace(tmp_path / "t.json", [full] * 4, steps=4, keys=100))
    assert not any("combine" in str(one["finding"]) for one in found)


def test_few_sms_at_work_are_told_with_the_call_to_make_again(tmp_path: Path) -> None:
    generated_run(tmp_path, range(100, 110), attention_ns=lambda _: 4_000)
    (few,) = [one for one in advice_of("generated") if "split decode attention" in str(one["finding"])]
    run = load("generated")
    spent = sum(call.duration_ns or 0 for call in run.check().calls)
    assert "keep at most 4 of 132 SMs at work" in str(few["evidence"])
    assert few["at_most_ns"] == spent * 128 // 132
    assert few["command"] == "attnprof replay generated --call 0"
    assert attnprof("replay", "generated", "--call", "0", "-o", str(tmp_path / "r.py")).code == 0


def test_a_split_count_that_would_fill_more_is_said_to_be_predicted(tmp_path: Path) -> None:
    def one_split_less(launches: list) -> list:  # as if the library had chosen half of the splits
        x, y, z = launches[0].grid
        return [replace(launches[0], grid=(x, y // 2, z)), *launches[1:]]

    spoil = dict.fromkeys(range(20), one_split_less)
    generated_run(tmp_path, range(1000, 1010), spoil=spoil, attention_ns=lambda _: 4_000)
    (few,) = [one for one in advice_of("generated") if "split decode attention" in str(one["finding"])]
    assert str(few["finding"]).endswith(
        ": num_splits=8 would launch flash_fwd_splitkv_kernel with grid 1x8x4 (predicted)"
    )
    assert any("ran otherwise" in str(one["finding"]) for one in advice_of("generated"))


def test_what_another_version_would_do_is_told_with_a_command_that_derives_it(tmp_path: Path) -> None:
    """As flash_attn 2.5.6 splits four sequences of packed queries; 2.5.7 counts two thread blocks an SM."""
    call = AttentionCall(
        "flash_attn", "varlen_fwd", 2, 1, 4096, 8, 4, 128, causal=True, seqlens_q=(1, 1),
        seqlens_k=(4096, 4096),
    )  # fmt: skip
    before, after = (predict(call, H100, version) for version in ("2.5.6", "2.5.7"))
    told = of_other_versions(call, H100, "2.5.6")
    assert (told[0].whose, told[0].version) == ("flash_attn from 2.5.7 on", "2.5.7")
    assert told[0].num_splits == after.num_splits != before.num_splits
    assert told[0].grid == after.launches[0].grid
    assert of_other_versions(call, H100, "2.8.3")[0].num_splits == before.num_splits
    assert "2.8.4" not in {one.version for one in told}


def test_fewer_splits_of_another_version_are_told_where_the_combine_costs(tmp_path: Path) -> None:
    generated_run(tmp_path, range(8189, 8193), attention_ns=lambda _: 4_000)
    (found,) = [one for one in advice_of("generated") if str(one["finding"]).startswith("combine less")]
    older = predict(decode_call(8192), H100, "2.5.0")
    assert older.num_splits < predict(decode_call(8192), H100).num_splits
    grid = "x".join(map(str, older.launches[0].grid))
    told = f"{older.num_splits} splits, flash_fwd_splitkv_kernel with grid {grid} (predicted)"
    assert str(found["finding"]).endswith(f"; flash_attn 2.5.0: {told}")


def test_more_splits_of_a_newer_version_are_told_where_few_sms_work(tmp_path: Path) -> None:
    """flash_attn 2.4.1 does not fold the heads of packed queries, nor split them."""
    call = AttentionCall(
        "flash_attn", "varlen_fwd", 1, 1, 4096, 28, 4, 128, causal=True, total_q=1, seqlens_q=(1,),
        seqlens_k=(4096,),
    )  # fmt: skip
    old, new = (predict(call, H100, version) for version in ("2.4.1", "2.8.3"))
    generated_run(
        tmp_path, range(4096, 4098), attention_ns=lambda _: 4_000,
        make=lambda keys: replace(call, seqlen_k=keys, seqlens_k=(keys,)), version="2.4.1",
    )  # fmt: skip
    assert (old.num_splits, old.launches[0].grid) == (1, (1, 1, 28))
    (few,) = [one for one in advice_of("generated") if "split decode attention" in str(one["finding"])]
    grid = "x".join(map(str, new.launches[0].grid))
    assert f"flash_attn from 2.4.3 on: {new.num_splits} splits" in str(few["finding"])
    assert f"grid {grid} (predicted)" in str(few["finding"])
    assert "keep at most 28 of 132 SMs at work" in str(few["evidence"])
    assert few["command"] == "attnprof explain --call 0 --version 2.4.3 --run generated"
    out = " ".join(attnprof(*shlex.split(str(few["command"]))[1:]).out.split())
    assert f"num_splits {new.num_splits}" in out


@pytest.mark.parametrize("scene", ["few", "combine", "spoiled", "hybrid", "communication"])
def test_each_command_runs_as_printed(scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target: Path | str = "generated"
    if scene == "hybrid":
        target = hybrid_trace(tmp_path / "t.json", [full] * 4, steps=4, keys=1277)
    else:
        keys = {"few": 100, "combine": 8192}.get(scene, 1000)
        spoil = {3: lambda launches: launches[:1]} if scene == "spoiled" else None
        others = LAYER_KERNELS if scene == "communication" else ()
        generated_run(
            tmp_path, range(keys, keys + 4), spoil=spoil, others=others, attention_ns=lambda _: 4_000
        )
    found = advice_of(target)
    assert found
    monkeypatch.chdir(tmp_path)
    for one in found:
        program, *arguments = shlex.split(str(one["command"]))
        if program == "ncu":
            assert arguments[arguments.index("--launch-count") + 1] == "1"
            continue
        done = attnprof(*arguments)
        assert done.code == (1 if scene == "spoiled" and arguments[0] == "check" else 0), done.err
        assert done.out


def test_the_cap_of_another_engine_version_is_told() -> None:
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", 1, 1, 8192, 28, 4, 128, causal=True, page_block_size=16,
        num_splits=16, seqlens_q=(1,), seqlens_k=(8192,),
    )  # fmt: skip
    assert [(one.whose, one.num_splits) for one in of_other_versions(call, H100, "fa3")] == [
        ("vLLM 0.33.0", 32)
    ]
    newer = replace(call, num_splits=32)
    assert [(one.whose, one.num_splits) for one in of_other_versions(newer, H100, "fa3")] == [
        ("vLLM 0.10.2", 16)
    ]
    own = with_splits(call, H100, "fa3", 0)
    assert own is not None
    assert own.num_splits == predict(replace(call, num_splits=0), H100, "fa3").num_splits > 16


@pytest.mark.parametrize("asked", [0, 16, 32])
def test_a_caller_that_asks_for_fewer_splits_than_the_library_would_take_is_told(asked: int) -> None:
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", 1, 1, 8192, 28, 4, 128, causal=True, page_block_size=16,
        num_splits=asked, seqlens_q=(1,), seqlens_k=(8192,),
    )  # fmt: skip
    row = RooflineRow("decode", -1, None, 40, 1, 1, 400_000, False, 3352, 989.4, 132, 132, False)
    checked = CheckedCall(
        Verdict.MATCH, "", 7, 1, "decode", 0, call=call, predicted=predict(call, H100, "fa3")
    )
    result: Any = SimpleNamespace(gpu=H100, version="fa3", library="vllm_flash_attn")
    run: Any = SimpleNamespace(records=(1,), argument="run")
    found = [*_asked_for([row], run, result, {("decode", -1, None): checked}, 1_000_000)]
    if asked != 16:  # 29 are the library's own choice
        assert found == []
        return
    (one,) = found
    assert one.what.startswith("let decode attention split further: the library's own choice: 29 splits, ")
    assert "; vLLM 0.33.0: 32 splits, " in one.what
    assert "asked for at most 16 splits" in one.evidence
    assert one.at_most_ns == 400_000 * (29 - 16) // 29
    assert one.command == "attnprof explain --call 7 --run run"


def test_communication_is_told_where_there_is_some(tmp_path: Path) -> None:
    generated_run(tmp_path, range(100, 110), others=LAYER_KERNELS)
    (one,) = [one for one in advice_of("generated") if "communication" in str(one["finding"])]
    assert one["at_most_ns"] == sum(
        kernel.decode_ns * 20 for kernel in LAYER_KERNELS if "nccl" in kernel.name
    )


def test_the_launch_that_changed_is_profiled_by_its_number(tmp_path: Path) -> None:
    path = hybrid_trace(tmp_path / "t.json", [full] * 2, steps=6, keys=1277)  # 1281 keys split otherwise
    (change,) = [one for one in advice_of(path) if "launch that changed" in str(one["finding"])]
    words = shlex.split(str(change["command"]))
    kernel, skip = words[words.index("--kernel-name") + 1], int(words[words.index("--launch-skip") + 1])
    trace = load(path).trace
    launches = [
        row for row in range(len(trace.kernels))
        if short_name(trace.strings[trace.kernels.name[row]]) == kernel
    ]  # fmt: skip
    splits = [int(trace.kernels.grid[row][1]) for row in launches]
    assert len(set(splits)) == 2
    assert skip == next(place for place, count in enumerate(splits) if count != splits[0])


@pytest.mark.parametrize("made", ["calls", "trace"])
def test_nothing_is_advised_where_nothing_was_seen(made: str, tmp_path: Path) -> None:
    calls_only_run("calls", range(120, 140))
    if made == "calls":
        assert advice_of("calls") == []
    assert "What to do" not in attnprof("report", "calls").out
