"""Sweeps: the array answers are the call-by-call ones, and changes, invariance, output and errors follow."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.analysis.invariance import invariance
from attnprof.analysis.sweep import Setting, stretches, sweep
from attnprof.dispatch import default_version, predict
from attnprof.dispatch.flash_attn2 import versions as flash_attn2
from attnprof.dispatch.flash_attn2.array import split_counts
from attnprof.dispatch.heuristic import num_splits_heuristic
from attnprof.dispatch.torch_sdpa import versions as torch_sdpa
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.command import attnprof

QWEN = AttentionCall("flash_attn", "fwd", 1, 1, 1, 28, 4, 128, causal=True)
VERSIONS = {
    "flash_attn": ("2.2.4", "2.3.6", "2.4.2", "2.5.6", "2.5.9", "2.6.3", "2.7.0", "2.7.4", "2.8.3"),
    "torch": ("2.6.0", default_version("torch")),
}
RULES = {"flash_attn": flash_attn2.rules_for, "torch": torch_sdpa.rules_for}
SIZES = {
    "batch": (0, 1, 2, 8, 33, 34, 200),
    "seqlen_q": (0, 1, 2, 64, 65, 300),
    "seqlen_k": (0, 1, 100, 129, 1000, 4096, 8191, 131072),
    "num_heads": (1, 4, 5, 28, 56),
    "num_heads_k": (1, 2, 4),
    "head_dim": (32, 40, 60, 64, 68, 96, 128, 160, 192, 256, 264),
}


@st.composite
def calls(draw: st.DrawFn) -> AttentionCall:
    """Calls of every entry, many of which their library refuses."""
    entry = draw(st.sampled_from(["fwd", "varlen_fwd", "fwd_kvcache"]))
    sizes = {name: draw(st.sampled_from(values)) for name, values in SIZES.items()}
    rare = st.sampled_from([False] * 7 + [True])
    return AttentionCall(
        draw(st.sampled_from(["flash_attn", "flash_attn", "torch"])),
        entry,
        **sizes,
        dtype=draw(st.sampled_from(["bf16"] * 7 + ["fp32"])),
        causal=draw(st.booleans()),
        window=draw(st.sampled_from([(-1, -1)] * 4 + [(100, -1), (5000, 0), (-1, 3), (300, 300)])),
        softcap=draw(st.sampled_from([0.0] * 5 + [3.0])),
        alibi=draw(rare),
        dropout_p=draw(st.sampled_from([0.0] * 4 + [0.1])),
        return_softmax=draw(rare),
        num_splits=draw(st.sampled_from([0] * 5 + [3, 200])) if entry == "fwd_kvcache" else 0,
        total_q=draw(st.sampled_from([None, None, 34, 99])) if entry == "varlen_fwd" else None,
        page_block_size=draw(st.sampled_from([None, None, 256, 100])) if entry != "fwd" else None,
        seqlen_knew=draw(st.sampled_from([None, None, 1])) if entry == "fwd_kvcache" else None,
        cache_seqlens=not draw(rare),
        cache_batch_idx=draw(rare),
    )


@given(call=calls(), data=st.data())
@settings(max_examples=400, deadline=None)
def test_arrays_give_what_one_prediction_per_call_gives(call: AttentionCall, data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(VERSIONS[call.library]))
    gpu = gpu_by_name(data.draw(st.sampled_from(["a100", "h100", "4090", "h20", "b200"])))
    swept = data.draw(st.sampled_from(list(SIZES)))
    counts = split_counts(call, gpu, RULES[call.library](version), {swept: np.array(SIZES[swept])})
    fields: list[dict[str, Any]] = [{swept: value} for value in SIZES[swept]]
    alone = [predict(replace(call, **field), gpu, version).num_splits or 0 for field in fields]
    assert counts.num_splits.tolist() == alone


@given(
    st.integers(1, 300),
    st.integers(1, 64),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from(["a100", "h20"]),
)
@settings(max_examples=100, deadline=None)
def test_a_lower_cap_is_what_the_heuristic_says_of_it(batch: int, blocks: int, cap: int, name: str) -> None:
    gpu = gpu_by_name(name)
    setting = Setting(replace(QWEN, batch=batch), gpu, "2.8.3", cap)
    found = sweep([setting], "seqlen_k", [blocks * 128]).num_splits[0, 0]
    assert found == num_splits_heuristic(batch * 4, gpu.num_sms * 2, blocks, cap)


def test_settings_of_every_kind_share_one_sweep() -> None:
    kvcache = replace(QWEN, entry="fwd_kvcache", cache_seqlens=True)
    table = [
        Setting(replace(call, batch=batch, num_heads_k=heads_k), gpu_by_name(gpu), version)
        for call in (QWEN, replace(QWEN, entry="varlen_fwd"), kvcache)
        for gpu in ("a100", "h100")
        for version in ("2.5.6", "2.8.3")
        for heads_k in (4, 28)
        for batch in (1, 40)
    ]
    values = [1, 128, 129, 4000, 9000]
    result = sweep(table, "seqlen_k", values)
    for row, setting in enumerate(table):
        alone = [
            predict(replace(setting.call, seqlen_k=value), setting.gpu, setting.version).num_splits
            for value in values
        ]
        assert result.num_splits[row].tolist() == alone


def test_changes_are_where_the_documented_run_switches_kernels() -> None:
    result = sweep([Setting(QWEN, gpu_by_name("h100"), "2.8.3")], "seqlen_k", range(1, 538))
    assert [(s.low, s.high, s.num_splits) for s in stretches(result)] == [
        (1, 128, 1), (129, 256, 2), (257, 384, 3), (385, 512, 4), (513, 537, 5),
    ]  # fmt: skip
    kernels = [stretch.kernels for stretch in stretches(result)]
    assert kernels[0] == "flash_fwd_kernel"
    assert set(kernels[1:]) == {"flash_fwd_splitkv_kernel + flash_fwd_splitkv_combine_kernel"}


def test_along_the_batch_a_new_wave_is_a_change() -> None:
    call = replace(QWEN, num_heads=40, num_heads_k=8, seqlen_k=4096)
    found = list(stretches(sweep([Setting(call, gpu_by_name("h100"), "2.8.3")], "batch", range(27, 51))))
    assert [(s.low, s.high, s.num_splits) for s in found] == [(27, 33, 1), (34, 50, 1)]
    assert found[0].waves[1] == 1.0


def test_a_refused_setting_says_why() -> None:
    (found,) = stretches(
        sweep([Setting(replace(QWEN, num_heads=30), gpu_by_name("h100"), "2.8.3")], "seqlen_k", [5, 9])
    )
    assert found.num_splits is None
    assert found.error == "Number of heads in key/value must divide number of heads in query"


def test_invariance_agrees_with_comparing_every_batch_and_length() -> None:
    gpu, batches, lengths = gpu_by_name("h20"), (1, 2, 3, 4, 7, 50, 51, 52, 53), range(1, 1500)
    table = [Setting(replace(QWEN, batch=batch), gpu, "2.8.3") for batch in batches]
    (found,) = invariance(sweep(table, "seqlen_k", lengths))
    splits = {
        (batch, keys): predict(replace(QWEN, batch=batch, seqlen_k=keys), gpu).num_splits
        for batch in batches
        for keys in lengths
    }
    expected = {(b, k) for b in batches for k in lengths if splits[b, k] != splits[1, k]}
    told = {
        (batch, keys)
        for part in found.differing
        for batch in batches
        if batch in part.sizes
        for interval in part.seqlen_k
        for keys in range(interval.low, (interval.high or 0) + 1)
    }
    assert told == expected
    assert found.num_differing == len({batch for batch, _ in expected})
    assert (found.constant.low, found.constant.high, found.num_constant) == (50, 53, 4)
    agreeing = {k for k in lengths if len({splits[b, k] for b in batches}) == 1}
    assert {k for i in found.same_for_all for k in range(i.low, (i.high or 0) + 1)} == agreeing


def test_the_table_fits_a_terminal_and_takes_regular_steps_together() -> None:
    done = attnprof(
        *("sweep", "--seqlen-k", "1:8192", "--batch", "1,8,32", "--gpu", "a100,h200,h20"),
        *("--num-heads", "28", "--num-heads-k", "4", "--seqlen-q", "1", "--head-dim", "128"),
        *("--library", "flash_attn", "--version", "2.8.3", "--max-splits", "128"),
    )
    assert done.code == 0
    assert "129–6912   +1 per 128 keys     2–54" in done.out
    table = done.out.partition("\nnext ")[0]
    assert max(map(len, table.splitlines())) <= 100


def test_steps_are_told_by_where_they_begin_however_coarse_the_range() -> None:
    out = attnprof("sweep", "--seqlen-k", "1:4096:64").out
    assert "129–4033   +1 per 128 keys     2–32" in out
    assert "values up to 64 keys apart" in out


def test_csv_and_json_hold_every_change_with_its_setting() -> None:
    command = ("sweep", "--seqlen-k", "1:600", "--batch", "1,64", "--version", "2.5.6,2.8.3")
    rows = list(csv.DictReader(io.StringIO(attnprof(*command, "--format", "csv").out)))
    objects = json.loads(attnprof(*command, "--format", "json").out)
    assert len(rows) == len(objects) > 8
    assert rows[1]["seqlen_k_from"] == str(objects[1]["seqlen_k_from"]) == "129"
    assert {row["version"] for row in rows} == {"2.5.6", "2.8.3"}
    assert objects[1]["kernels"] == "flash_fwd_splitkv_kernel + flash_fwd_splitkv_combine_kernel"


def test_all_has_a_row_per_prediction() -> None:
    done = attnprof("sweep", "--seqlen-k", "0:300", "--batch", "1,2", "--all", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 602
    for row in rows:
        call = replace(QWEN, batch=int(row["batch"]), seqlen_k=int(row["seqlen_k"]))
        splits = predict(call, gpu_by_name("h100")).num_splits
        assert row["num_splits"] == ("" if splits is None else str(splits))


def test_invariance_in_words_and_as_data() -> None:
    command = ("sweep", "--seqlen-k", "1:1000", "--batch", "1:60", "--invariance")
    out = attnprof(*command).out
    assert "52 of 60 batch sizes" in out
    assert "All batch sizes agree at 1–128 keys." in out
    (found,) = json.loads(attnprof(*command, "--format", "json").out)
    assert found["reference_batch"] == 1
    assert found["same_for_all_batches"] == [[1, 128]]


def test_other_libraries_are_swept_call_by_call() -> None:
    kvcache = replace(QWEN, library="flash_attn_3", entry="fwd_kvcache", cache_seqlens=True)
    gpu, version = gpu_by_name("h100"), default_version("flash_attn_3")
    lengths = range(1, 5000, 500)
    result = sweep([Setting(kvcache, gpu, version)], "seqlen_k", lengths)
    alone = [predict(replace(kvcache, seqlen_k=keys), gpu, version).num_splits or 0 for keys in lengths]
    assert result.num_splits[0].tolist() == alone


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seqlen-k", "9:1"], "--seqlen-k: 9:1 ends before it begins"),
        (["--seqlen-k", "1:x"], "--seqlen-k: '1:x' holds something else than whole numbers"),
        (["--seqlen-k", "1:2:3:4"], "--seqlen-k: '1:2:3:4' is no number and no range"),
        (["--seqlen-k", "1:9:0"], "--seqlen-k: the step of 1:9:0 must be at least 1"),
        (["--seqlen-k", "1,,2"], "--seqlen-k: '' is no number and no range"),
        (["--seqlen-k", "1", "--batch", "0:4"], "--batch: 0:4 begins below 1"),
        (["--seqlen-k", "1:1000000000", "--batch", "1:100"], "100,000,000,000 predictions"),
        (["--seqlen-k", "1:20", "--batch", "1:1000", "--heads", "1:1000"], "combinations besides seqlen_k"),
        (["--seqlen-k", "1", "--gpu", "a100,h1000"], "unknown GPU 'h1000'"),
        (["--seqlen-k", "1", "--entry", "fwd,bwd"], "--entry 'bwd' is none of"),
        (["--seqlen-k", "1", "--version", "2.8.3,9.9"], "flash_attn 9.9 is not modelled"),
        (["--seqlen-k", "1", "--library", "torch,flash_attn", "--version", "2.6"], "--version goes with one"),
        (["--seqlen-k", "1", "--along", "heads"], "--along 'heads' is none of"),
        (["--seqlen-k", "1:9", "--invariance"], "--invariance compares batch sizes or queries"),
        (["--seqlen-k", "1:9000", "--all"], "--all would print a table of 9,000 lines"),
    ],
)  # fmt: skip
def test_wrong_ranges_give_one_error_that_says_what_to_do(flags: list[str], says: str) -> None:
    done = attnprof("sweep", *flags)
    assert done.code == 2
    assert done.out == ""
    error, *hint = done.err.splitlines()
    assert says in error
    assert (len(hint) == 1 and hint[0].startswith("  try: ")) or "is none of" in error


@pytest.mark.parametrize(
    "flags",
    [
        ["--seqlen-k", "1:2000", "--batch", "1,8,32", "--gpu", "a100,h20"],
        ["--seqlen-k", "1:2000", "--batch", "1:64"],
        ["--seqlen-k", "4096", "--batch", "10:50", "--num-heads", "40", "--num-heads-k", "8"],
        ["--seqlen-k", "1:4000:50", "--head-dim", "32:256:32"],
        ["--seqlen-k", "0:300", "--num-heads", "30", "--num-heads-k", "4"],
    ],
)
def test_every_shape_of_sweep_can_be_drawn(flags: list[str], tmp_path: Path) -> None:
    figure = tmp_path / "splits.png"
    done = attnprof("sweep", *flags, "--plot", str(figure))
    assert (done.code, done.err) == (0, f"wrote {figure}\n")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_figure_of_too_many_panels_is_refused(tmp_path: Path) -> None:
    done = attnprof(
        *("sweep", "--seqlen-k", "1:100", "--batch", "1,2", "--head-dim", "8:256:8"),
        *("--plot", str(tmp_path / "x.png")),
    )
    assert done.code == 2
    assert "panels is too many" in done.err
