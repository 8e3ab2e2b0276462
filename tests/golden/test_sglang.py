"""SGLang's own answers, recorded from the released wheel, against ours: every row."""

from __future__ import annotations

from collections import Counter

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.sglang.methods import CHUNKED, chunks, method_of
from tests.conftest import golden_rows


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
