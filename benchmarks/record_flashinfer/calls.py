"""The calls that are recorded: drawn at random, the same ones each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.record_flashinfer.build import NEWEST, OLD

DEVICES = {  # name -> major, minor, SMs, shared memory per SM and per block, threads per SM
    "a100": (8, 0, 108, 167936, 166912, 2048), "a10": (8, 6, 72, 102400, 101376, 1536),
    "l40s": (8, 9, 142, 102400, 101376, 1536), "h100": (9, 0, 132, 233472, 232448, 2048),
    "b200": (10, 0, 148, 233472, 232448, 2048), "rtx-5090": (12, 0, 170, 102400, 101376, 1536),
}  # fmt: skip
_LENGTHS = (
    1, 2, 15, 16, 17, 64, 100, 127, 128, 129, 255, 256, 257, 300, 511, 512, 777, 1000, 1024, 2048, 3000, 4096,
    5000, 8192, 16384, 20000, 32768, 65536,
)  # fmt: skip
_BATCHES = (1, 1, 2, 3, 4, 7, 8, 16, 17, 32, 64, 100, 128, 256)
_GROUPS = (1, 2, 3, 4, 6, 8, 16)  # of decode kernels
_OTHER_GROUPS = (1, 2, 4, 7, 8)
_HEADS = (
    (32, 8), (64, 8), (28, 4), (40, 8), (16, 16), (8, 1), (96, 8), (32, 4), (64, 4), (128, 8), (24, 8),
    (48, 8), (12, 2), (16, 1), (32, 2), (6, 1), (71, 1),
)  # fmt: skip
_TRTLLM_KEYS = (
    1, 17, 100, 128, 129, 256, 300, 500, 512, 1000, 1024, 2000, 2048, 4096, 5000, 8192, 10000, 16384, 32768,
    65536, 131072, 200000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A call as golden data state it, and as the program reads it."""

    fields: dict[str, Any]
    line: str


class Calls:
    """Draws calls of launches.cu."""

    def __init__(self, version: str) -> None:
        self.version, self.random = version, Random(15)

    def _length(self) -> int:
        return self.random.choice(_LENGTHS)

    def _lengths(self, count: int, least: int = 1) -> list[int]:
        """Alike in four batches of ten; with ``least`` 0, some are empty."""
        if self.random.random() < 0.4:
            return [self._length()] * count
        drawn = [self._length() for _ in range(count)]
        return [one if least or self.random.random() < 0.95 else 0 for one in drawn]

    def _heads(self, groups: Sequence[int]) -> tuple[int, int]:
        heads_k = self.random.choice((1, 2, 4, 5, 8, 10, 16, 32))
        return self.random.choice(groups) * heads_k, heads_k

    def _made(self, kind: str, entry: str, backend: str, device: str, dim: int, heads: tuple[int, int],
              given: Sequence[int], **fields: Any) -> Call:  # fmt: skip
        common = {
            "library": "flashinfer", "version": self.version, "entry": entry, "backend": backend,
            "dtype": "bf16", "num_heads": heads[0], "num_heads_k": heads[1], "head_dim": dim,
            "device": device,
        }  # fmt: skip
        return Call(common | fields, " ".join(map(str, (kind, *DEVICES[device], *given))))

    def _device(self, *names: str) -> str:
        return self.random.choice(names or tuple(DEVICES))

    def sm90(self, count: int) -> list[Call]:
        """Plans of Hopper's backend; some batches have more tiles than it plans for each head."""
        found = []
        for index in range(count):
            heads, dim = self._heads(_OTHER_GROUPS), self.random.choice((64, 128, 128, 256))
            page, causal = self.random.choice((1, 16, 64)), self.random.random() < 0.6
            graph, batch = self.random.random() < 0.3, self.random.choice(_BATCHES)
            queries = self._lengths(batch) if self.random.random() < 0.7 else [1] * batch
            if index % 40 == 0:
                queries = [1] * 4200
            alike = self._length()
            keys = [one + (alike if len(queries) > 1000 else self._length()) for one in queries]
            sizes = (*heads, dim, dim, page, int(causal), int(graph), len(queries), *queries, *keys)
            found.append(
                self._made(
                    "sm90", "batch_paged", "fa3", "h100", dim, heads, sizes, head_dim_v=dim, page_size=page,
                    causal=causal, cuda_graph=graph, seqlens_q=queries, seqlens_k=keys,
                )
            )  # fmt: skip
        return found

    def mla(self, count: int) -> list[Call]:
        """Plans of latent attention, decode and drafts and prefill."""
        found = []
        while len(found) < count:
            batch, heads = self.random.choice(_BATCHES), self.random.choice((1, 8, 16, 32, 64, 128))
            causal, device = self.random.random() < 0.5, self._device("a100", "h100", "b200")
            kind = self.random.randrange(4)
            queries = (
                [(1, 1, self.random.choice((1, 2, 3, 4)))[kind]] * batch if kind < 3 else self._lengths(batch)
            )
            if sum(queries) * heads > 300_000:
                continue
            keys = self._lengths(batch, 0) if kind < 2 else [one + self._length() for one in queries]
            sizes = (heads, 512, int(causal), batch, *queries, *keys)
            found.append(
                self._made(
                    "mla", "batch_mla", "", device, 576, (heads, 1), sizes, head_dim_v=512, causal=causal,
                    page_size=64, seqlens_q=queries, seqlens_k=keys,
                )
            )  # fmt: skip
        return found

    def single_decode(self, dim: int, count: int) -> list[Call]:
        """One sequence, CUDA cores; a group of 5 has no kernel."""
        found = []
        for _ in range(count):
            heads = self._heads((*_GROUPS, 5) if self.random.random() < 0.1 else _GROUPS)
            device, keys = self._device(), self._length()
            sizes = (*heads, keys)
            found.append(
                self._made(
                    "single_decode", "single_decode", "", device, dim, heads, sizes, batch=1, seqlen_q=1,
                    seqlen_k=keys,
                )
            )  # fmt: skip
        return found

    def batch_decode(self, dim: int, count: int) -> list[Call]:
        """A paged batch, CUDA cores."""
        found = []
        for _ in range(count):
            heads, batch, device = self._heads(_GROUPS), self.random.choice(_BATCHES), self._device()
            page, graph = self.random.choice((1, 8, 16, 32, 64, 128)), self.random.random() < 0.3
            keys = self._lengths(batch, 0)
            sizes = (*heads, page, int(graph), batch, *(-(-one // page) for one in keys))
            found.append(
                self._made(
                    "batch_decode", "batch_decode", "", device, dim, heads, sizes, page_size=page,
                    cuda_graph=graph, seqlens_q=[1] * batch, seqlens_k=keys,
                )
            )  # fmt: skip
        return found

    def single_prefill(self, count: int) -> list[Call]:
        """One sequence, backend fa2, head dim 128."""
        found = []
        for _ in range(count):
            heads, device = self._heads(_OTHER_GROUPS), self._device()
            queries, keys, causal = self._length(), self._length(), self.random.random() < 0.6
            sizes = (*heads, queries, keys, int(causal))
            found.append(
                self._made(
                    "single_prefill", "single_prefill", "fa2", device, 128, heads, sizes, batch=1,
                    seqlen_q=queries, seqlen_k=keys, causal=causal,
                )
            )  # fmt: skip
        return found

    def batch_prefill(self, dim: int, count: int) -> list[Call]:
        """A paged batch with tensor cores: block and merge kernel."""
        found = []
        for _ in range(count):
            heads, batch, device = self._heads(_OTHER_GROUPS), self.random.choice(_BATCHES), self._device()
            page, graph = self.random.choice((1, 16, 64)), self.random.random() < 0.3
            queries = self._lengths(batch) if self.random.random() < 0.5 else [1] * batch
            keys = [one + self._length() for one in queries]
            pages = [-(-one // page) for one in keys]
            sizes = (*heads, page, int(graph), batch, *queries, *pages)
            found.append(
                self._made(
                    "batch_prefill", "batch_paged", "fa2", device, dim, heads, sizes, page_size=page,
                    causal=True, cuda_graph=graph, seqlens_q=queries, seqlens_k=keys,
                )
            )  # fmt: skip
        return found


def uniform_plans(version: str, count: int) -> list[Call]:
    """Plans of paged batches whose caller promises every sequence as many queries, mostly for CUDA graphs.

    From 0.7.4 on the caller can promise it of all plans of the graph too, as the decode wrapper does.
    """
    calls, found = Calls(version), []
    random = calls.random
    for _ in range(count):
        heads, dim, batch = (
            calls._heads(_OTHER_GROUPS),
            random.choice((64, 128, 256)),
            random.choice(_BATCHES),
        )
        queries, page, device = (
            random.choice((1, 1, 1, 2, 3, 4, 8, 40)),
            random.choice((1, 16, 64)),
            calls._device(),
        )
        graph, uniform = random.random() < 0.8, queries if random.random() < 0.8 else 0
        always = version == NEWEST and random.random() < 0.7
        window, disabled = random.choice((-1, -1, -1, 127, 1023)), random.random() < 0.1
        fixed = random.choice((1, 4, 64)) if random.random() < 0.1 else None
        keys = [one + queries for one in calls._lengths(batch)]
        sizes = (
            *heads, dim, page, int(graph), window, fixed or -1, int(disabled), uniform, int(always), batch,
            *[queries] * batch, *keys,
        )  # fmt: skip
        found.append(
            calls._made(
                "batch_plan", "batch_paged", "fa2", device, dim, heads, sizes, page_size=page,
                cuda_graph=graph, window_left=window, fixed_split_size=fixed, disable_split_kv=disabled,
                uniform_q_len=uniform, fixed_uniform_q_len=always, seqlens_q=[queries] * batch,
                seqlens_k=keys,
            )
        )  # fmt: skip
    return found


def trtllm_gen_calls(version: str, count: int = 2500) -> list[Call]:
    """Calls of trtllm_gen.cu: decode, drafts, prefill and latent attention."""
    random, found = Random(7), []
    while len(found) < count:
        device, sm, sms = random.choices((("b200", 100, 148), ("b300", 103, 148)), (4, 1))[0]
        kind = random.choices(("decode", "drafts", "prefill", "mla"), (50, 20, 15, 15))[0]
        dim = random.choice((64, 128, 128, 128, 256, 512) if kind != "prefill" else (64, 128, 128, 256))
        dim_v, heads, causal = dim, random.choice(_HEADS), kind != "prefill" or random.random() < 0.85
        page = random.choice((*(16, 32, 64) * 4, 128, 256, 256, 1))
        dtype = random.choices(("bf16", "fp16", "fp8"), (5, 2, 3))[0]
        batch = random.choice((1, 1, 2, 3, 4, 7, 8, 12, 16, 24, 32, 33, 64, 100, 128, 200, 256))
        keys, window = random.choice(_TRTLLM_KEYS), random.choice((-1, -1, -1, -1, 127, 1023, 4095))
        drafts, prompts = (2, 3, 4, 5, 6, 8, 10, 16), (17, 100, 128, 129, 256, 512, 1000, 4096)
        queries = random.choice(drafts if kind == "drafts" else prompts if kind == "prefill" else (1,))
        if kind == "mla":
            dim, dim_v = random.choice(((576, 512), (576, 512), (576, 512), (320, 256)))
            heads, page, window = (random.choice((128, 16, 32, 64, 8)), 1), random.choice((32, 64)), -1
            queries, dtype = random.choice((1, 1, 1, 2, 4)), random.choice(("bf16", "fp8", "fp16"))
        elif keys < queries:
            continue
        clusters = random.choice((1, 4, 7, 8, 16, 30, 60, 148))
        entry = {"prefill": "batch_paged", "mla": "batch_mla"}.get(kind, "batch_decode")
        fields = {
            "library": "flashinfer", "version": version, "entry": entry, "backend": "trtllm-gen",
            "dtype": dtype, "batch": batch, "seqlen_q": queries, "seqlen_k": keys, "num_heads": heads[0],
            "num_heads_k": heads[1], "head_dim": dim, "head_dim_v": dim_v, "page_size": page,
            "causal": causal, "window_left": window, "device": device, "active_clusters": clusters,
        }  # fmt: skip
        given = (
            sm, sms, dtype, dtype, "bf16" if dtype == "fp8" else dtype, int(kind == "prefill"), batch,
            queries, keys, *heads, dim, dim_v, page, window, int(causal), clusters, 0, 0, 0,
        )  # fmt: skip
        found.append(Call(fields, " ".join(map(str, given))))
    return found


def trtllm_gen_mixed_calls(version: str, count: int = 900) -> list[Call]:
    """Decode, drafts and prefill over a cache of another dtype than the queries.

    Since 0.7 none of bf16 over FP8, whose kernels are in no table.
    """
    random, found = Random(13), []
    while len(found) < count:
        device, sm, sms = random.choices((("b200", 100, 148), ("b300", 103, 148)), (3, 1))[0]
        dtypes = (("bf16", "fp8", "bf16"), ("fp16", "fp8", "fp16"), ("fp8", "nvfp4", "fp8"))
        dtype, kept, out = random.choice(dtypes if version == OLD else dtypes[1:])
        context, heads = random.random() < 0.25, random.choice(_HEADS)
        queries = random.choice((17, 128, 257, 1000)) if context else random.choice((1, 1, 1, 2, 3, 5, 9))
        keys, window = random.choice(_TRTLLM_KEYS), random.choice((-1, -1, -1, 127, 4095))
        if keys < queries:
            continue
        sizes = {
            "batch": random.choice((1, 2, 3, 7, 8, 16, 33, 64, 128, 256)), "seqlen_q": queries,
            "seqlen_k": keys, "num_heads": heads[0], "num_heads_k": heads[1],
        }  # fmt: skip
        dim, page = random.choice((64, 128, 128, 256, 512)), random.choice((16, 32, 64, 64, 128, 256, 8))
        clusters = random.choice((1, 4, 8, 30, 148))
        fields = {
            "library": "flashinfer", "version": version,
            "entry": "batch_paged" if context else "batch_decode", "backend": "trtllm-gen",
            "dtype": dtype, "kv_dtype": kept, **sizes, "head_dim": dim,
            "head_dim_v": dim, "page_size": page, "causal": True, "window_left": window, "device": device,
            "active_clusters": clusters,
        }  # fmt: skip
        given = (
            sm,
            sms,
            dtype,
            kept,
            out,
            int(context),
            *sizes.values(),
            dim,
            dim,
            page,
            window,
            1,
            clusters,
        )
        found.append(Call(fields, " ".join(map(str, (*given, 0, 0, 0)))))
    return found


def trtllm_gen_mla_calls(version: str, count: int = 1500) -> list[Call]:
    """Sparse latent attention, decode and drafts and prompts, and prefill over Q, K and V of their own."""
    random, found = Random(11), []
    for _ in range(count):
        device, sm, sms = random.choices((("b200", 100, 148), ("b300", 103, 148)), (4, 1))[0]
        sparse, batch = (
            random.random() < 0.6,
            random.choice((1, 1, 2, 3, 4, 7, 8, 9, 10, 16, 33, 64, 256, 1024)),
        )
        dtype = random.choices(("bf16", "fp16", "fp8"), (6, 1, 4))[0]
        keys, queries = random.choice(_TRTLLM_KEYS), random.choice((1, 1, 1, 2, 4, 16, 17, 100, 1000))
        heads = random.choice((1, 2, 4, 8, 12, 16, 20, 32, 40, 64, 128))
        topk, causal, page = random.choice((128, 512, 1024, 2048, 2048, 2048, 2176)), True, {"page_size": 64}
        dims = random.choice(((576, 512), (576, 512), (512, 512)))
        if not sparse:
            dims, topk, page = random.choice(((192, 128), (192, 128), (256, 256), (128, 128))), 0, {}
            causal = random.random() < 0.6
            queries = random.choice((1, 16, 100, 128, 129, 256, 257, 512, 1000, 4096, 16384))
            keys = queries if causal else keys
        sizes = {
            "batch": batch, "seqlen_q": queries, "seqlen_k": keys, "num_heads": heads,
            "num_heads_k": 1 if sparse else heads, "head_dim": dims[0], "head_dim_v": dims[1],
        }  # fmt: skip
        fields = {
            "library": "flashinfer", "version": version, "entry": "batch_mla" if sparse else "varlen_fwd",
            "backend": "trtllm-gen", "dtype": dtype, **sizes, **page, "causal": causal, "window_left": -1,
            "device": device, "active_clusters": 148, **({"index_topk": topk} if sparse else {}),
        }  # fmt: skip
        given = (
            sm, sms, dtype, dtype, "bf16" if dtype == "fp8" else dtype, int(not sparse), *sizes.values(), 64,
            -1, int(causal), 148, int(not sparse), topk, int(sparse and dims[0] == 512),
        )  # fmt: skip
        found.append(Call(fields, " ".join(map(str, given))))
    return found
