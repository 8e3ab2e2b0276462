"""K and V that recorded calls read, how that grows with each token, and tokens a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof import load
from attnprof.analysis.kv_cache import decode_growth, step_reads
from attnprof.analysis.phases import build_steps
from attnprof.analysis.steady_state import named_steps
from attnprof.analysis.throughput import first_token, phase_tokens
from attnprof.calls.kv_read import KvRead, kv_read
from attnprof.calls.records import CallRecord
from attnprof.report.kv_cache import cache_sentence, growth_table, size_in_words
from attnprof.report.summary import summarise
from attnprof.report.throughput import tokens_sentence, tokens_table
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.timeline import Timeline, build_timeline
from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

MI300X = TESTS / "data" / "traces" / "torch_mi300x_sglang_qwen3-8b_decode.json.gz"
B200 = TESTS / "data" / "traces" / "torch_b200_vllm_eager_trtllmgen_fmha.json.gz"
KV = 4 * (128 + 128) * 2  # bytes of a token in one layer: 4 heads, bf16


def dense(keys: int, queries: int = 1, batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "entry": "fwd", "dtype": "bf16", "q": [batch, queries, 28, 128], "k": [batch, keys, 4, 128],
        "v": [batch, keys, 4, 128], "window": [-1, -1], **more,
    }  # fmt: skip


def paged(lengths: list[int] | None, pages: int = 100, **more: Any) -> dict[str, Any]:
    batch = len(lengths or ()) or 3
    return {
        "entry": "varlen_fwd", "dtype": "bf16", "q": [batch, 28, 128], "k": [pages, 16, 4, 128],
        "v": [pages, 16, 4, 128], "window": [-1, -1], "block_table": [batch, 40], "batch": batch,
        "max_seqlen_q": 1, "max_seqlen_k": max(lengths or (500,)),
        "seqlens_q": [1] * batch if lengths else None, "seqlens_k": lengths, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        (dense(100), KvRead(1, 1, 100, 100 * KV)),
        (dense(100, 7, 3), KvRead(21, 3, 100, 300 * KV)),
        (dense(100, dtype="fp32"), KvRead(1, 1, 100, 200 * KV)),
        (dense(100, kv_dtype="float8_e4m3fn"), KvRead(1, 1, 100, 50 * KV)),
        (dense(100, kv_dtype="auto"), KvRead(1, 1, 100, 100 * KV)),
        (dense(100, window=[9, 0]), KvRead(1, 1, 100, 10 * KV)),
        (dense(100, 3, window=[9, 0]), KvRead(3, 1, 100, 12 * KV)),
        (dense(5, window=[9, 0]), KvRead(1, 1, 5, 5 * KV)),
        # As scaled_dot_product_attention lays it out.
        ({**dense(1), "entry": "sdpa", "q": [2, 28, 7, 128], "k": [2, 4, 30, 128], "v": [2, 4, 30, 128]},
         KvRead(14, 2, 30, 60 * KV)),
        (paged([100, 20, 30]), KvRead(3, 3, 100, 150 * KV, cache_bytes=1600 * KV)),
        # Only the longest is known: it is read, and the others hold a key or more.
        (paged(None), KvRead(3, 3, 500, 500 * KV, lower_bound=True, cache_bytes=1600 * KV)),
        (paged(None, max_seqlen_k=None), KvRead(3, 3, 0, None, cache_bytes=1600 * KV)),
        # Packed without pages: nothing but the sequences is there.
        ({**paged(None), "block_table": None, "k": [90, 4, 128], "v": [90, 4, 128]},
         KvRead(3, 3, 500, 90 * KV)),
        # A cache of which an unread part is used, and one that is read as it is.
        ({**dense(640), "entry": "fwd_kvcache", "has_cache_seqlens": True},
         KvRead(1, 1, 0, None, cache_bytes=640 * KV)),
        ({**dense(640), "entry": "fwd_kvcache", "has_cache_seqlens": False},
         KvRead(1, 1, 640, 640 * KV, cache_bytes=640 * KV)),
        ({**dense(640), "entry": "fwd_kvcache", "has_cache_seqlens": True, "cache_seqlens": [64]},
         KvRead(1, 1, 64, 64 * KV, cache_bytes=640 * KV)),
        # Latent attention: V is the first 512 elements of K, held once.
        ({**dense(1), "entry": "fwd_kvcache", "q": [1, 1, 16, 576], "k": [10, 64, 1, 576],
          "v": [10, 64, 1, 512], "block_table": [1, 10], "has_cache_seqlens": True, "seqlens_q": [1],
          "seqlens_k": [100]},
         KvRead(1, 1, 100, 100 * 576 * 2, cache_bytes=640 * 576 * 2)),
        (dense(100, not_described="no"), None),
        (dense(100, k=None), None),
        (dense(100, dtype="int4"), None),
        ({**dense(1), "entry": "sdpa", "k": [2, 4, -1, 128]}, None),
    ],
)  # fmt: skip
def test_a_call_reads_the_keys_of_its_lengths_and_windows(
    fields: dict[str, Any], read: KvRead | None
) -> None:
    assert kv_read(fields) == read


@given(queries=st.integers(1, 12), keys=st.integers(1, 20), left=st.integers(-1, 8))
def test_keys_in_a_window_are_those_of_the_mask(queries: int, keys: int, left: int) -> None:
    queries = min(queries, keys)
    i, j = np.arange(queries)[:, None] + keys - queries, np.arange(keys)[None]
    mask = (j <= i) & ((j >= i - left) if left >= 0 else np.ones_like(j, bool))
    read = kv_read(dense(keys, queries, window=[left, 0]))
    assert read is not None
    assert read.read_bytes == mask.any(axis=0).sum() * KV


def records(*steps: tuple[str, list[dict[str, Any]]], process: int = 0) -> list[CallRecord]:
    found = []
    for step, (phase, layers) in enumerate(steps):
        for layer, fields in enumerate(layers):
            found.append(CallRecord(len(found), step, phase, layer, {**fields, "process": process}))
    return found


def generation(prompt: int, new: int, batch: int = 1, **more: Any) -> list[CallRecord]:
    """Two layers, of which the second keeps 16 keys."""

    def layers(keys: int, queries: int) -> list[dict[str, Any]]:
        return [dense(keys, queries, batch, **more), dense(keys, queries, batch, window=[15, 0])]

    return records(
        ("prefill", layers(prompt, prompt)),
        *(("decode", layers(prompt + n, 1)) for n in range(1, new)),
    )


def test_what_decode_reads_grows_by_the_layers_that_keep_everything() -> None:
    reads = step_reads(generation(20, 5, 3))
    assert [one.tokens for one in reads] == [60, 3, 3, 3, 3]
    assert [one.read_bytes for one in reads] == [
        3 * KV * 40, *(3 * KV * (16 + 20 + n) for n in range(1, 5)),
    ]  # fmt: skip
    (growth,) = decode_growth(reads)
    assert (growth.first.step, growth.last.step, growth.per_token) == (1, 4, KV)
    assert cache_sentence(reads) == (
        "Decode step 1 reads 222 KiB of K and V, step 4 reads 240 KiB: 2 KiB more per token of each request."
    )
    rows = growth_table(reads).objects()
    assert [(row["phase"], row["steps_shown"], row["bytes_per_token"]) for row in rows] == [
        ("prefill", "0", None), ("decode", "1–4", KV),
    ]  # fmt: skip


def test_only_windows_do_not_grow_and_a_step_of_other_requests_begins_anew() -> None:
    windowed = records(*(("decode", [dense(100 + n, window=[15, 0])]) for n in range(3)))
    assert cache_sentence(step_reads(windowed)) == (
        "Decode step 0 reads 32 KiB of K and V, step 2 reads 32 KiB: it does not grow."
    )
    steps = [("decode", [dense(100 + n, 1, 1 + (n > 2))]) for n in range(6)]
    assert [(one.first.step, one.last.step) for one in decode_growth(step_reads(records(*steps)))] == [
        (0, 2), (3, 5),
    ]  # fmt: skip


def test_growth_is_not_told_where_it_varies_or_lengths_are_not_known() -> None:
    uneven = records(*(("decode", [dense(100 + n * n)]) for n in range(4)))
    (growth,) = decode_growth(step_reads(uneven))
    assert growth.per_token is None
    maxima = records(*(("decode", [paged(None, max_seqlen_k=500 + n)]) for n in range(3)))
    reads = step_reads(maxima)
    assert cache_sentence(reads) == (
        "Decode step 0 reads at least 1,000 KiB of K and V, step 2 reads at least 1,004 KiB. "
        "The caches given hold 3.12 MiB."
    )
    unread = records(("decode", [paged([100, 20, 30]), paged(None, max_seqlen_k=None)]))
    (one,) = step_reads(unread)
    assert (one.lower_bound, one.cache_bytes) == (True, 2 * 1600 * KV)
    only_size = records(("decode", [paged(None, max_seqlen_k=None)]))
    assert cache_sentence(step_reads(only_size)) == "The caches given hold 3.12 MiB."
    assert cache_sentence(step_reads(generation(20, 1))) == ""


def test_caches_of_calls_in_no_layer_are_not_added_up() -> None:
    fields = paged([100, 20, 30])
    of_none = [CallRecord(n, 0, "decode", None, fields) for n in range(2)]
    assert step_reads(of_none)[0].cache_bytes is None


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1000, "1,000 bytes"), (1024, "1 KiB"), (1536, "1.50 KiB"), (1 << 20, "1 MiB"),
     (123456789, "118 MiB"), (1 << 44, "16 TiB"), (1 << 60, "1,048,576 TiB"), (None, "")],
)  # fmt: skip
def test_sizes_are_told_in_three_digits(size: int | None, words: str) -> None:
    assert size_in_words(size) == words


class Steps(TraceBuilder):
    """Steps of so many nanoseconds on the CPU, each with one kernel of half that time."""

    def __init__(self) -> None:
        super().__init__()
        self.domain("attnprof", 1)

    def timeline(self, tmp_path: Path, *steps: tuple[str, int, int], gpu: bool = True) -> Timeline:
        for number, (name, start, end) in enumerate(steps):
            self.range(name, start, end, domainId=1, int64Value=number)
            if gpu:
                self.call(start + 1, start + 2, number + 1)
                self.kernel("gemm", start + 2, start + 2 + (end - start) // 2, number + 1)
        return build_timeline(read_nsys_sqlite(self.write(tmp_path / "t.sqlite")))


STEPS = (("prefill", 0, 2000), ("decode", 2000, 3000), ("decode", 3000, 4000))


def test_tokens_a_second_are_of_wall_and_of_gpu_time(tmp_path: Path) -> None:
    timeline = Steps().timeline(tmp_path, *STEPS)
    steps, reads = build_steps(timeline), step_reads(generation(20, 3, 4))
    prefill, decode = phase_tokens(timeline, steps, reads)
    assert (prefill.tokens, prefill.wall_ns, prefill.gpu_ns) == (80, 2000, 1000)
    assert (decode.tokens, decode.wall_ns, decode.gpu_ns, decode.most) == (8, 2000, 1000, 4)
    assert tokens_sentence([prefill, decode], first_token(steps, reads)) == (
        "Decode makes 4,000,000 tokens/s (up to 4 requests), 8,000,000 per second of GPU time. "
        "Prefill takes 40,000,000 tokens/s, 80,000,000 per second of GPU time. "
        "A first token waits 2 µs for its prefill."
    )
    assert tokens_table([prefill, decode]).objects()[1]["tokens_per_s"] == 4e6


def test_drafts_that_are_verified_are_not_called_made(tmp_path: Path) -> None:
    timeline = Steps().timeline(tmp_path, *STEPS)
    verified = records(("prefill", [dense(9, 9)]), ("decode", [dense(13, 4)]), ("decode", [dense(17, 4)]))
    phases = phase_tokens(timeline, build_steps(timeline), step_reads(verified))
    assert tokens_sentence(phases, None).startswith("Decode takes 4,000,000 tokens/s, ")


def test_a_cpus_tokens_are_in_the_table_alone(tmp_path: Path) -> None:
    timeline = Steps().timeline(tmp_path, *STEPS, gpu=False)
    steps, reads = build_steps(timeline), step_reads(generation(20, 3))
    phases = phase_tokens(timeline, steps, reads)
    assert tokens_sentence(phases, first_token(steps, reads)) == ""
    assert [row["tokens_per_s"] for row in tokens_table(phases).objects()] == [1e7, 1e6]


def test_a_prompt_in_chunks_is_one_wait_and_two_prompts_are_two(tmp_path: Path) -> None:
    timeline = Steps().timeline(
        tmp_path, ("prefill", 0, 1000), ("prefill", 1000, 3000), ("decode", 3000, 4000),
        ("prefill", 4000, 5000), ("prefill", 6000, 7000), ("decode", 7000, 8000),
    )  # fmt: skip
    chunks = [("prefill", [dense(8, 8)]), ("prefill", [dense(12, 4)]), ("decode", [dense(13)])]
    prompts = [("prefill", [dense(8, 8)]), ("prefill", [dense(4, 4)]), ("decode", [dense(5)])]
    found = first_token(build_steps(timeline), step_reads(records(*chunks, *prompts)))
    assert found is not None
    assert (found.prefills, found.median_ns) == (2, (3000 + 1000) / 2)
    unknown = step_reads(records(*chunks[1:]))
    assert first_token(build_steps(timeline), unknown) is None


def test_an_engines_names_count_requests_and_tokens() -> None:
    for path, phase, requests, tokens in ((MI300X, "decode", 32, 32), (B200, "prefill", 1, 888)):
        assert list(named_steps(load(path).timeline).values()) == [(phase, requests, tokens)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("execute_context_2(512)_generation_14(14)", ("mixed", 16, 526)),
        ("execute_context_0(0)_generation_3(6)", ("decode", 3, 6)),
        ("step[EXTEND bs=2 toks=1024]", ("prefill", 2, 1024)),
        ("step[DECODE bs=8 toks=8]", ("decode", 8, 8)),
        ("step[DECODE bs=8]", ("decode", 8, 0)),
    ],
)
def test_each_wording_of_a_step(tmp_path: Path, name: str, told: tuple[str, int, int]) -> None:
    builder = Steps()
    builder.range(name, 0, 1000, domainId=0)
    assert list(named_steps(builder.timeline(tmp_path)).values()) == [told]


def test_a_trace_without_calls_tells_tokens_and_no_cache() -> None:
    run = load(MI300X)
    told = dict(summarise(run.recording, run.check()).facts)
    assert told["tokens"].startswith("Decode makes 67.5 tokens/s (up to 32 requests)")
    assert "cache" not in told  # nobody recorded a call


@pytest.mark.parametrize("table", ["tokens", "cache", "cache_steps", "modules"])
def test_each_table_is_written_as_csv(table: str) -> None:
    text = attnprof("report", str(MI300X), "--table", table, "--format", "csv").out
    head, *rows = text.splitlines()
    assert head.startswith(("phase", "process"))
    assert bool(rows) == (not table.startswith("cache"))
