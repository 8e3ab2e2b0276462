"""What to do: ranked by what could be saved at most, each from something observed, with a command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from attnprof import load
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.summary import summarise
from tests.support.command import attnprof
from tests.support.generated_run import LAYER_KERNELS, calls_only_run, generated_run
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
        from dataclasses import replace

        x, y, z = launches[0].grid
        return [replace(launches[0], grid=(x, y // 2, z)), *launches[1:]]

    spoil = dict.fromkeys(range(20), one_split_less)
    generated_run(tmp_path, range(1000, 1010), spoil=spoil, attention_ns=lambda _: 4_000)
    (few,) = [one for one in advice_of("generated") if "split decode attention" in str(one["finding"])]
    assert str(few["finding"]).endswith(
        ": num_splits=8 would launch flash_fwd_splitkv_kernel with grid 1x8x4 (predicted)"
    )
    assert any("ran otherwise" in str(one["finding"]) for one in advice_of("generated"))


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
