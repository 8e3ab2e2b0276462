"""A sweep evaluates a run of KV lengths once: the same as every length by itself, split or saturated."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.analysis.sweep import Setting, stretches, sweep
from attnprof.dispatch.libraries import library, predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall

GPUS = [gpu_by_name(name) for name in ("h100", "a100", "4090")]
VERSIONS = {"flash_attn": ("2.2.4", "2.4.1", "2.5.6", "2.8.3", "2.8.4"), "torch": ("2.2.0", "2.15.0")}
HEAD_DIMS = [32, 64, 72, 128, 192, 250, 256]
WINDOWS = [(-1, -1), (-1, -1), (100, 0), (700, 3), (-1, 40)]


@st.composite
def asked(draw: st.DrawFn) -> Setting:
    name = draw(st.sampled_from(sorted(VERSIONS)))
    entry = draw(st.sampled_from(library(name).entries[:3]))
    heads_k = draw(st.sampled_from([1, 2, 4, 8]))
    cache = entry == "fwd_kvcache"
    call = AttentionCall(
        name, entry, draw(st.sampled_from([1, 2, 7, 20, 60, 200])), draw(st.sampled_from([1, 1, 2, 65, 300])),
        1, heads_k * draw(st.sampled_from([1, 4, 7])), heads_k, draw(st.sampled_from(HEAD_DIMS)),
        causal=draw(st.booleans()), window=draw(st.sampled_from(WINDOWS)),
        alibi=draw(st.booleans()), dropout_p=draw(st.sampled_from([0.0, 0.0, 0.1])),
        num_splits=draw(st.sampled_from([0, 0, 1, 5])) if cache else 0,
        page_block_size=draw(st.sampled_from([None, 256])) if entry != "fwd" and name != "torch" else None,
        seqlen_knew=draw(st.sampled_from([None, 1, 9])) if cache else None, cache_seqlens=cache,
    )  # fmt: skip
    version = draw(st.sampled_from(VERSIONS[name]))
    return Setting(call, draw(st.sampled_from(GPUS)), version, draw(st.sampled_from([128, 128, 16])))


def every_value(setting: Setting, values: list[int]) -> np.ndarray:
    """num_splits of each length, none left out."""
    counter = library(setting.call.library).split_counter(setting.version)
    assert counter is not None
    varied = {"seqlen_k": np.array(values)}
    return counter(setting.call, setting.gpu, varied, setting.max_splits).num_splits


@settings(max_examples=150, deadline=None)
@given(asked(), st.integers(0, 900), st.integers(1, 3))
def test_a_run_stands_for_each_of_its_lengths(setting: Setting, first: int, step: int) -> None:
    values = range(first, first + 2500, step)
    other = replace(setting, call=replace(setting.call, batch=3, head_dim=64))
    result = sweep([setting, other], "seqlen_k", values)
    for row, each in enumerate((setting, other)):
        assert result.num_splits[row].tolist() == every_value(each, list(values)).tolist()
    if setting.max_splits == 128:
        for value in (first, first + step * 400, values[-1]):
            alone = predict(replace(setting.call, seqlen_k=value), setting.gpu, setting.version).num_splits
            assert result.num_splits[0, (value - first) // step] == (alone or 0)


@pytest.mark.parametrize(("batch", "saturated"), [(8, False), (64, True)])
def test_both_regimes_are_what_each_call_alone_gets(batch: int, saturated: bool) -> None:
    call = AttentionCall("flash_attn", "fwd", batch, 1, 1, 28, 4, 128, causal=True)
    setting = Setting(call, GPUS[0], "2.8.3")
    values = range(1, 6000, 7)
    result = sweep([setting], "seqlen_k", values)
    alone = [predict(replace(call, seqlen_k=keys), GPUS[0], "2.8.3") for keys in values]
    assert result.num_splits[0].tolist() == [each.num_splits for each in alone]
    assert (set(result.num_splits[0].tolist()) == {1}) is saturated
    found = list(stretches(result))
    assert (len(found) == 1) is saturated
    # every stretch is whole: neighbours meet, and each of its calls launches what it says
    assert (found[0].low, found[-1].high) == (1, values[-1])
    assert all(after.low == before.high + 7 for before, after in pairwise(found))
    for each in found:
        inside = [one for keys, one in zip(values, alone, strict=True) if each.low <= keys <= each.high]
        assert {one.num_splits for one in inside} == {each.num_splits}


def test_lengths_that_nothing_tells_apart_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_of = library("flash_attn")
    counter, seen = asked_of.split_counter("2.8.3"), []
    assert counter is not None

    def counted(call, gpu, varied, most):  # type: ignore[no-untyped-def]
        counts = counter(call, gpu, varied, most)
        seen.append(counts.num_splits.size)
        return counts

    monkeypatch.setattr(type(asked_of), "split_counter", lambda self, version: counted)
    call = AttentionCall("flash_attn", "fwd", 64, 1, 1, 28, 4, 128, causal=True)
    result = sweep([Setting(call, GPUS[0], "2.8.3")], "seqlen_k", range(1, 128 * 100 + 1))
    assert result.size == 12_800
    assert sum(seen) <= 110


def test_a_library_that_does_not_say_where_is_asked_of_every_length() -> None:
    call = AttentionCall("flash_attn_3", "fwd", 4, 1, 1, 28, 4, 128, causal=True, num_splits=-1)
    result = sweep([Setting(call, GPUS[0], "2.8.3")], "seqlen_k", range(1, 300))
    alone = [predict(replace(call, seqlen_k=keys), GPUS[0], "2.8.3").num_splits for keys in range(1, 300)]
    assert result.num_splits[0].tolist() == alone
    assert len(result.firsts) == 299
