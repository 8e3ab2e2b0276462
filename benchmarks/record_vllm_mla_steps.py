"""Records how vLLM 0.33 attends prompts of latent attention, by the wheel's own functions, without a GPU.

    python -m benchmarks.record_vllm_mla_steps WHEEL tests/data/golden/vllm_mla_steps_0.33.0.jsonl.gz

WHEEL and the running Python are those of record_vllm_backends.py, whose stand-ins serve. A row is a backend
for sparse MLA on a GPU, a rank's heads, a model's head dims and a batch of prompts; the answers are ``limit``
(queries of a request up to which it counts as decode, of the backend's metadata builder), ``way``
(``MLAAttention._use_sparse_mha`` and what ``forward_mha`` makes of it: "absorbed", "dense" or "masked") and
``chunks``, as ``plan_mla_context_chunks`` shares the cached keys out: [first request, keys of each].
"""

from __future__ import annotations

import gzip
import importlib
import json
import sys
import types
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.record_vllm_backends import Upstream

ROOM, COUNT = 64 * 1024, 1500
BACKENDS = {
    "FLASHMLA_SPARSE": ("flashmla_sparse", "FlashMLASparseMetadataBuilder"),
    "FLASH_ATTN_MLA_SPARSE": ("flashattn_mla_sparse", "FlashAttnMLASparseMetadataBuilder"),
    "FLASH_ATTN_MLA_SPARSE_FA4": ("flashattn_mla_sparse", "FlashAttnMLASparseFA4MetadataBuilder"),
    "FLASHINFER_MLA_SPARSE": ("flashinfer_mla_sparse", "FlashInferMLASparseTRTLLMMetadataBuilder"),
}
MAJORS = {"FLASH_ATTN_MLA_SPARSE": (9,), "FLASHMLA_SPARSE": (9, 10)}
SHAPES = ((128, 128, 64, 128), (128, 128, 64, 128), (64, 192, 64, 256), (64, 256, 0, 256), (32, 96, 64, 128))


class ThresholdError(Exception):
    """What a builder gives to ``_init_reorder_batch_threshold``."""


class Wheel:
    """The functions asked, with what they read of a configuration."""

    def __init__(self, folder: Path) -> None:
        self.upstream = Upstream(folder)
        layers = "vllm.model_executor.layers.attention"
        self.mla = importlib.import_module(f"{layers}.mla_attention")
        self.sparse = importlib.import_module(f"{layers}.sparse_mla_attention")
        self.prefill = importlib.import_module("vllm.v1.attention.backends.mla.prefill")
        self.selector = importlib.import_module("vllm.v1.attention.backends.mla.prefill.selector")
        self.base = importlib.import_module("vllm.v1.attention.backends.mla.prefill.base")
        common = self.sparse.SparseMLACommonMetadataBuilder

        def begun(builder: Any, spec: Any, names: Any, config: Any, device: Any) -> None:
            builder.model_config, builder.vllm_config = config.model_config, config

        def threshold(builder: Any, value: int, **more: Any) -> None:
            raise ThresholdError(value)

        common.__init__, common._init_reorder_batch_threshold = begun, threshold

    def limit(self, backend: str, config: Any) -> int:
        module, name = BACKENDS[backend]
        found = getattr(importlib.import_module(f"vllm.v1.attention.backends.mla.{module}"), name)
        builder = found.__new__(found)
        try:
            builder.__init__(None, [], config, types.SimpleNamespace(index=0))
        except ThresholdError as given:
            return int(given.args[0])
        raise AssertionError(f"{backend} sets no threshold")

    def has_prefill(self, dims: tuple[int, int, int]) -> bool:
        named = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        sizes = self.base.MLADimensions(**dict(zip(named, dims, strict=True)))
        config = self.selector.MLAPrefillSelectorConfig(self.upstream.torch.bfloat16, sizes)
        try:
            return self.upstream.platform.get_mla_prefill_backend_cls(config) is not None
        except ValueError:
            return False

    def way(self, row: dict[str, Any], config: Any, chunks: list[Any]) -> str:
        all_heads, *dims = row["shape"]
        queries, keys = row["seqlens_q"], row["seqlens_k"]
        torch, name = self.upstream.torch, types.SimpleNamespace
        context = None
        if any(have > new for new, have in zip(queries, keys, strict=True)):
            context = name(chunks=[name(max_seq_len=max(one[1])) for one in chunks])
        prefill = name(
            use_dense_mha=self.sparse._use_dense_mha_prefill(config, max(keys), row["topk"]),
            max_query_len=max(queries), query_lens_cpu=torch.tensor(queries), chunked_context=context,
            topk_mask_workspace=torch.empty(self.sparse.GLOBAL_TOPK_MASK_MAX_BYTES // 4, dtype=torch.int32,
                                            device="meta"),
        )  # fmt: skip
        has = self.has_prefill(tuple(dims))
        masked = self.sparse._is_masked_mha_available(all_heads, 512, *dims, row["kv_dtype"])
        impl = name(
            masked_mha_available=masked, dcp_world_size=1,
            masked_mha_workspace_fits=self.sparse.SparseMLACommonImpl.masked_mha_workspace_fits,
        )  # fmt: skip
        layer = name(
            hisparse_cache=None, prefill_backend=object() if has else None, impl=impl,
            attn_backend=name(get_name=lambda: row["backend"]), _vllm_config=config,
            qk_nope_head_dim=dims[0], qk_rope_head_dim=dims[1], v_head_dim=dims[2],
        )  # fmt: skip
        asked = name(prefill=prefill if has else None, prefill_max_seq_len=max(keys))
        if not self.mla.MLAAttention._use_sparse_mha(layer, asked):
            return "absorbed"
        return "dense" if max(keys) <= row["topk"] else "masked"


def configured(row: dict[str, Any]) -> Any:
    name = types.SimpleNamespace
    text = name(index_topk=row["topk"])
    model = name(hf_text_config=text, get_num_attention_heads=lambda parallel: row["num_heads"])
    ranks = max(row["shape"][0] // row["num_heads"], 1)
    return name(
        attention_config=name(hisparse_config=None, sparse_mla_force_mqa=False),
        parallel_config=name(
            tensor_parallel_size=ranks, decode_context_parallel_size=1, cp_kv_cache_interleave_size=1
        ),
        model_config=model, cache_config=name(cache_dtype=row["kv_dtype"]), speculative_config=None,
    )  # fmt: skip


def rows(wheel: Wheel) -> list[dict[str, Any]]:
    random, found = Random(33), []
    while len(found) < COUNT:
        backend, shape = random.choice(list(BACKENDS)), random.choice(SHAPES)
        major = random.choice(MAJORS.get(backend, (10,)))
        heads = shape[0] // random.choice((1, 2, 4, 8))
        longest = random.choice((300, 1100, 2048, 5000, 9000, 20000, 40000, 150000))
        queries = [
            random.randint(max(longest // 4, 1), longest) for _ in range(random.choice((1, 1, 2, 3, 6)))
        ]
        cached = random.random() < 0.5
        keys = [one + (random.randint(0, 120000) if cached else 0) for one in queries]
        if random.random() < 0.3:
            keys = [min(have, 2048) for have in keys]
            queries = [min(one, have) for one, have in zip(queries, keys, strict=True)]
        row = {
            "backend": backend, "sm": f"{major}.0", "num_heads": heads, "shape": shape, "seqlens_q": queries,
            "kv_dtype": random.choice(("auto", "auto", "bfloat16", "fp8")), "topk": 2048,
            "seqlens_k": keys, "page": random.choice((32, 64, 64, 128)),
        }  # fmt: skip
        wheel.upstream.now = wheel.upstream.capability(major, 0)
        config = configured(row)
        plans = wheel.mla.plan_mla_context_chunks(
            [have - new for new, have in zip(queries, keys, strict=True)], ROOM,
            ROOM // row["page"] * row["page"], row["page"], lambda many: many,
        )  # fmt: skip
        chunks = [[plan.request_start, list(plan.seq_lens)] for plan in plans]
        answers = {"limit": wheel.limit(backend, config), "way": wheel.way(row, config, chunks)}
        found.append({"row": row, "expect": answers | {"chunks": chunks}})
    return found


def main() -> None:
    """``WHEEL OUT``."""
    wheel, out = sys.argv[1:]
    text = "".join(json.dumps(row) + "\n" for row in rows(Wheel(Path(wheel))))
    with Path(out).open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{out}: {text.count(chr(10))} rows")


if __name__ == "__main__":
    main()
