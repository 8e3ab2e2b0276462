"""SGLang's own answers, recorded from the released wheel, against ours: every row."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from typing import Any

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.sglang.methods import CHUNKED, chunks, method_of
from attnprof.dispatch.engines.sglang.selector import choose, page_size, refused_arguments
from attnprof.dispatch.engines.sglang.sparse_calls import kinds
from attnprof.gpus import make_gpu
from tests.conftest import GOLDEN, golden_rows

LATENT: dict[str, Any] = {"num_heads": 128, "num_heads_k": 128, "head_dim": 576, "mla": True}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"num_heads": 32, "num_heads_k": 8, "head_dim": 128},
    "llama": {"num_heads": 32, "num_heads_k": 8, "head_dim": 128},
    "gpt_oss": {"num_heads": 64, "num_heads_k": 8, "head_dim": 64, "sinks": True, "window": 128},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT | {"deepseek": True},
    "deepseek_v32": LATENT | {"sparse": True, "index_topk": 2048},
}


def is_modelled(row: dict[str, str]) -> bool:
    """Not of servers with a draft model, but for a chain of drafts over single tokens."""
    return row["topk"] == "0" or (row["topk"] == "1" and row["page_size"] in ("", "1"))


def test_what_a_server_settles_on_is_what_the_released_resolution_answers() -> None:
    """Backend of prompts and decode, page size, refusals, and of an indexer's models the kinds and cache."""
    with gzip.open(GOLDEN / "sglang_servers_0.5.23.csv.gz", "rt") as lines:
        recorded = list(csv.DictReader(lines))
    seen: Counter[str] = Counter()
    for row in filter(is_modelled, recorded):
        asked = int(row["page_size"]) if row["page_size"] else None
        layer = Layer(
            **MODELS[row["model"]], kv_dtype=row["kv_cache_dtype"], block_size=asked,
            backend=row["attention_backend"] or None, batch_invariant=row["deterministic"] == "1",
        )  # fmt: skip
        major, minor = map(int, row["sm"].split("."))
        gpu = make_gpu("a GPU", major, minor, 100)
        backend = str(choose(layer, gpu).backend)
        assert bool(refused_arguments(backend, layer, major)) == bool(row["error"]), row
        if row["error"]:
            seen["refused"] += 1
            continue
        prompts = "trtllm_mla" if backend == "cutedsl_mla" else backend
        assert (prompts, backend) == (row["prefill"], row["decode"]), row
        assert str(page_size(backend, layer, major)) == row["page"], row
        if row["model"] == "deepseek_v32":
            assert kinds(layer, gpu) == (row["dsa_prefill"], row["dsa_decode"], row["kv"]), row
            seen[row["dsa_decode"]] += 1
        seen[f"{backend} {'asked' if layer.backend else 'by default'}"] += 1
    assert len(recorded) == 1440
    assert seen["refused"] > 200
    assert seen["trtllm_mla by default"] >= 2  # DeepSeek V3 on SM 10.x
    assert min(seen[name] for name in ("fa3", "trtllm", "flashmla_kv")) >= 5, seen
    assert {name.split()[0] for name in seen if "default" in name} == {
        "fa3", "trtllm_mha", "trtllm_mla", "flashinfer", "triton", "dsa"
    }  # fmt: skip


def test_how_prompts_of_mla_are_attended_is_what_its_handlers_answer() -> None:
    recorded, seen = golden_rows("sglang_methods_0.5.23.jsonl.gz"), Counter[str]()
    for row in recorded:
        call, expect = row["call"], row["expect"]
        queries, keys = tuple(call["seqlens_q"]), tuple(call["seqlens_k"])
        step = Step(len(queries), max(queries), max(keys), call["prefill_graph"], queries, keys)
        layer = Layer(128, 128, 576, mla=True, batch_invariant=call["deterministic"])
        major, minor = map(int, call["sm"].split("."))
        method = method_of(call["backend"], layer, step, (major, minor)).name
        held = [list(each) for each in chunks(step)] if method == CHUNKED else []
        assert (method, held) == (expect["method"], expect["chunks"]), call
        seen[method] += 1
        seen["chunks"] += len(held) > 1
    assert len(recorded) == 1500
    assert min(seen[name] for name in ("MLA", "MHA", "MHA_ONE_SHOT", "MHA_CHUNKED_KV", "chunks")) > 20, seen
