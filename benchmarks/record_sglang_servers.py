"""Records what an SGLang server settles on for a model and a GPU, by its whole resolution, without a GPU.

    python benchmarks/record_sglang_servers.py WHEEL RECORDER OUT.csv.gz

WHEEL is a folder with the files of an sglang wheel; the running Python has the CUDA build of torch and what
sglang's server_args import, but sgl_kernel, which is stood in for. RECORDER as in record_vllm_launches.py:
the runtime that it preloads says which GPU there is. Models are folders with a config.json alone. Arguments
are drawn at random; ``ServerArgs.resolve_once`` is asked, with FlashInfer said to be installed. ``error``
is the first line of what it raises.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.record_triton import _Finder
from benchmarks.record_vllm_launches import GPUS
from benchmarks.recorded_launches import record_gpus, write_row

FACTS = {**GPUS, "T4": (7, 5, 40, 65536, 65536), "GB300": (10, 3, 160, 233472, 232448)}
_PLAIN = {
    "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 1000, "intermediate_size": 512, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16", "rope_theta": 10000.0, "hidden_act": "silu", "rms_norm_eps": 1e-6,
}  # fmt: skip
_LATENT = {
    "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
_SPARSE = {"index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **_PLAIN},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_PLAIN},
    "gpt_oss": {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", **_PLAIN, "num_attention_heads": 64,
        "head_dim": 64, "sliding_window": 128, "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "deepseek_v3": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", **_PLAIN, **_LATENT
    },
    "deepseek_v2": {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **_PLAIN, **_LATENT,
        "scoring_func": "softmax", "topk_method": "group_limited_greedy", "aux_loss_alpha": 0.001,
    },
    "deepseek_v32": {
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", **_PLAIN, **_LATENT,
        **_SPARSE,
    },
}  # fmt: skip
BACKENDS = ("fa3", "fa4", "triton", "flashinfer", "trtllm_mha", "trtllm_mla", "flashmla", "cutedsl_mla")
ASKED = ("model", "attention_backend", "kv_cache_dtype", "page_size", "deterministic", "topk", "tp_size")
ANSWERS = ("prefill", "decode", "page", "kv", "dsa_prefill", "dsa_decode", "prefill_graph", "error")


def asked(gpu: str, count: int) -> list[dict[str, Any]]:
    """Arguments; of each model first none."""
    draw = random.Random(f"sglang servers {gpu}")
    found: list[dict[str, Any]] = []
    for number in range(count):
        plain = number < len(MODELS)
        found.append(
            {
                "model": list(MODELS)[number] if plain else draw.choice(list(MODELS)),
                "attention_backend": None if plain else draw.choice((None, None, None, *BACKENDS)),
                "kv_cache_dtype": "auto"
                if plain
                else draw.choice(("auto", "auto", "fp8_e4m3", "fp8_e5m2", "bf16")),
                "page_size": None if plain else draw.choice((None, None, None, 1, 16, 32, 64, 128)),
                "deterministic": not plain and draw.random() < 0.2,
                "topk": 0 if plain else draw.choice((0, 0, 0, 0, 1, 4)),
                "tp_size": 1 if plain else draw.choice((1, 1, 4, 8)),
            }
        )
    return found


def answer(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    from sglang.srt.arg_groups.overrides import attention_backends_of, resolution_result, resolved_view
    from sglang.srt.server_args import ServerArgs

    model = str(folder / row["model"])
    drafts: dict[str, Any] = {}
    if row["topk"]:
        drafts = {
            "speculative_algorithm": "EAGLE", "speculative_draft_model_path": model,
            "speculative_num_steps": 3, "speculative_eagle_topk": row["topk"],
            "speculative_num_draft_tokens": 4 if row["topk"] == 1 else 8,
        }  # fmt: skip
    try:
        args = ServerArgs(
            model_path=model, attention_backend=row["attention_backend"], page_size=row["page_size"],
            kv_cache_dtype=row["kv_cache_dtype"], enable_deterministic_inference=row["deterministic"],
            tp_size=row["tp_size"], device="cuda", load_format="dummy", **drafts,
        )  # fmt: skip
        args.resolve_once()
    except Exception as error:
        words = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        return {**dict.fromkeys(ANSWERS, ""), "error": words[:200]}
    prefill, decode = attention_backends_of(resolved_view(args))
    sparse = row["model"] == "deepseek_v32"
    return {
        "prefill": prefill, "decode": decode, "page": resolution_result(args, "page_size"),
        "kv": resolution_result(args, "kv_cache_dtype"),
        "dsa_prefill": resolution_result(args, "dsa_prefill_backend") if sparse else "",
        "dsa_decode": resolution_result(args, "dsa_decode_backend") if sparse else "",
        "prefill_graph": resolution_result(args, "cuda_graph_config").prefill.backend, "error": "",
    }  # fmt: skip


def one_gpu(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(options.wheel))
    sys.meta_path.insert(0, _Finder("sgl_kernel"))
    from sglang.srt.runtime_context import override_platform

    with tempfile.TemporaryDirectory() as place, override_platform(has_flashinfer=True):
        folder = Path(place)
        for name, config in MODELS.items():
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config))
        major, minor = FACTS[options.gpu][:2]
        for row in asked(options.gpu, options.count):
            write_row({"sm": f"{major}.{minor}", **row, **answer(row, folder)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("recorder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--gpu")
    options = parser.parse_args()
    if options.gpu:
        one_gpu(options)
        return
    record_gpus(__file__, FACTS, options.recorder, options.out)
    rows = [json.loads(line) for line in gzip.decompress(options.out.read_bytes()).splitlines()]
    text = io.StringIO()
    writer = csv.DictWriter(text, ("sm", *ASKED, *ANSWERS), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        kept = {name: int(value) if isinstance(value, bool) else value for name, value in row.items()}
        writer.writerow({name: "" if value is None else value for name, value in kept.items()})
    options.out.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
