"""Records what ``tokenspeed_mla_decode`` of the released package decides on the host, without a GPU.

    python benchmarks/record_tokenspeed_mla.py tests/data/golden/tokenspeed_mla_2.0.3.csv.gz

The running Python has tokenspeed-mla and what it requires. Compiling is replaced by taking down what the
function compiles and calls; the grid is that of its own MLAStaticTileScheduler for these. A row: the call, as
vLLM's TOKENSPEED_MLA makes it (E4M3 queries and cache), tile rows, fold, whether queries are packed, splits,
the reducer's bands, and the grid as x/y/z.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from record_vllm_backends import write

GPUS = ((10, 0, 148), (10, 0, 152), (10, 3, 160), (10, 3, 148))
COLUMNS = ("sm", "sms", "batch", "seqlen_q", "seqlen_k", "num_heads", "page", "dtype")
ANSWERS = ("tile", "fold", "packed", "num_splits", "bands", "grid")


def calls(count: int, dtype: str) -> list[dict[str, Any]]:
    draw = random.Random("tokenspeed" + dtype * (dtype != "fp8"))
    found = []
    for _ in range(count):
        major, minor, sms = draw.choice(GPUS)
        found.append(
            {
                "sm": f"{major}.{minor}", "sms": sms,
                "batch": draw.choice((1, 2, 3, 4, 8, 16, 31, 64, 75, 148, 200, 512)),
                "seqlen_q": draw.choice((1, 1, 1, 2, 3, 4, 5, 8)),
                "seqlen_k": draw.choice((1, 64, 129, 1000, 1024, 4096, 8191, 32768, 131072)),
                "num_heads": draw.choice((8, 16, 16, 32, 64, 128, 128)), "page": draw.choice((32, 64)),
                "dtype": dtype,
            }
        )  # fmt: skip
    return found


def answer(call: dict[str, Any], decode: Any, torch: Any) -> dict[str, Any]:
    from tokenspeed_mla.mla_helpers import MLAStaticTileScheduler

    taken: dict[str, Any] = {}

    def compiled(**options: Any) -> Any:
        taken.update(options)
        return lambda *arguments: taken.update(split_kv=int(arguments[8]), workspace=arguments[7])

    batch, queries, heads = call["batch"], call["seqlen_q"], call["num_heads"]
    tiles: list[Any] = []
    select = decode.select_mla_decode_tilers

    def selected(*given: Any, **options: Any) -> Any:
        tiles.append(select(*given, **options))
        return tiles[-1]

    capability = tuple(map(int, call["sm"].split(".")))
    element = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp16": torch.float16}[call["dtype"]]
    with (
        mock.patch.object(decode, "_get_compiled_mla_kernel", compiled),
        mock.patch.object(decode, "select_mla_decode_tilers", selected),
        mock.patch.object(decode, "_check_can_implement"),
        mock.patch.object(decode, "get_num_sm", return_value=call["sms"]),
        mock.patch("torch.cuda.get_device_capability", return_value=capability),
        mock.patch("tvm_ffi.use_torch_stream", contextlib.nullcontext),
    ):
        decode.tokenspeed_mla_decode(
            query=torch.empty((batch, queries, heads, 576), dtype=element),
            kv_cache=torch.empty((4, call["page"], 576), dtype=element),
            workspace_buffer=torch.empty(1 << 33, dtype=torch.int8), kv_lora_rank=512, qk_rope_head_dim=64,
            block_tables=torch.empty((batch, 4), dtype=torch.int32),
            seq_lens=torch.empty(batch, dtype=torch.int32), max_seq_len=call["seqlen_k"], softmax_scale=0.1,
        )  # fmt: skip
    tile, packed = tiles[0][0][0], taken["pack_q"]
    rows = -(-heads * queries // tile) if packed else queries // taken["fold_sq_factor"]
    cluster = (2 if tile == 128 else 1, 1, 1)
    shape = SimpleNamespace(
        cluster_shape_mnk=cluster, problem_shape_b=batch, problem_shape_s=rows, split_kv=taken["split_kv"],
        is_persistent=taken["is_persistent"],
    )  # fmt: skip
    grid = MLAStaticTileScheduler.get_grid_shape(shape, 0)
    return {
        "tile": tile, "fold": taken["fold_sq_factor"], "packed": int(packed), "num_splits": taken["split_kv"],
        "bands": taken["reducer_d_tiles"] if taken["workspace"] is not None else 0,
        "grid": "/".join(map(str, grid)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("fp8", "bf16", "fp16"), default="fp8")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    import tokenspeed_mla.mla_decode as decode
    import torch

    rows = [call | answer(call, decode, torch) for call in calls(options.count, options.dtype)]
    write(options.out, (*COLUMNS, *ANSWERS), rows)


if __name__ == "__main__":
    main()
