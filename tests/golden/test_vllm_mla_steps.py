"""How vLLM attends prompts of latent attention, against the functions of its wheel."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.vllm.mla_prefill import context_chunks
from attnprof.dispatch.engines.vllm.sparse_calls import decode_limit
from attnprof.dispatch.engines.vllm.sparse_prompts import attended_densely, attended_under_mask
from tests.conftest import golden_rows

ROWS = "vllm_mla_steps_0.33.0.jsonl.gz"


def _way(row: dict[str, Any]) -> str:
    _, nope, rope, narrow = row["shape"]
    layer = Layer(
        row["num_heads"], row["num_heads"], 512 + rope, kv_dtype=row["kv_dtype"], block_size=row["page"],
        mla=True, sparse=True, index_topk=row["topk"], qk_nope_head_dim=nope, qk_rope_head_dim=rope,
        v_head_dim=narrow,
    )  # fmt: skip
    queries, keys = row["seqlens_q"], row["seqlens_k"]
    step = Step(
        len(queries), max(queries), max(keys), seqlens_q=tuple(queries), seqlens_k=tuple(keys)
    )  # fmt: skip
    major, minor = map(int, row["sm"].split("."))
    if attended_densely(row["backend"], layer, step, (major, minor)):
        return "dense"
    return "masked" if attended_under_mask(row["backend"], layer, step, (major, minor)) else "absorbed"


def test_every_prompt_is_attended_as_the_wheel_decides() -> None:
    rows = list(golden_rows(ROWS))
    wrong = [row["row"] for row in rows if _way(row["row"]) != row["expect"]["way"]]
    assert wrong == []
    told = Counter(row["expect"]["way"] for row in rows)
    assert min(told[way] for way in ("absorbed", "dense", "masked")) > 20


def test_cached_keys_are_shared_out_as_the_wheel_packs_them() -> None:
    most = 0
    for row in golden_rows(ROWS):
        asked = row["row"]
        contexts = tuple(
            keys - queries for queries, keys in zip(asked["seqlens_q"], asked["seqlens_k"], strict=True)
        )
        chunks = context_chunks(contexts, asked["page"])
        assert [[one.first, list(one.keys)] for one in chunks] == row["expect"]["chunks"]
        most = max(most, len(chunks))
    assert most > 3


def test_as_many_queries_count_as_decode_as_the_builders_say() -> None:
    for row in golden_rows(ROWS):
        asked = row["row"]
        layer = Layer(asked["num_heads"], asked["num_heads"], 576, mla=True, sparse=True, index_topk=2048)
        sm = (int(asked["sm"][:-2]), 0)
        assert decode_limit(asked["backend"], layer, sm) == row["expect"]["limit"]
