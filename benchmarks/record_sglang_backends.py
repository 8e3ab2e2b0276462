"""Records which attention backend SGLang takes by default, by its own functions, without a GPU.

    python benchmarks/record_sglang_backends.py WHEEL tests/data/golden/sglang_backends_0.5.23.csv.gz

WHEEL is a folder with the Python files of an sglang wheel, unpacked; the running Python needs what sglang's
server_args import. The platform's facts are overridden by sglang's own ``override_platform``; every
combination of inputs of ``get_default_attn_backend`` and of the deterministic fallback is tried, without
speculative decoding and with FlashInfer installed. ``backend`` is the answer.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from record_vllm_backends import write

COLUMNS = ("platform", "mla", "sinks", "asymmetric_kv", "num_heads_k", "deterministic", "deepseek")
FACTS = {  # what sglang's probes answer with CUDA 13; 8.0 stands for everything before Hopper
    "7.5": (), "8.0": (), "9.0": ("is_sm90", "is_hopper_with_cuda_12_3"),
    "10.0": ("is_sm100", "is_blackwell"), "10.3": ("is_sm100", "is_blackwell"),
    "11.0": ("is_sm110", "is_blackwell"),
    "12.0": ("is_sm120", "is_blackwell"), "12.1": ("is_sm120", "is_blackwell"), "hip": ("is_hip",),
}  # fmt: skip
ALL = ("is_sm90", "is_sm100", "is_sm110", "is_sm120", "is_blackwell", "is_hopper_with_cuda_12_3", "is_hip")


def answer(row: dict[str, Any], modules: Any) -> str:
    facts = {name: name in FACTS[row["platform"]] for name in ALL}
    facts |= {"is_cuda": row["platform"] != "hip", "has_flashinfer": True}
    architecture = "Qwen2ForCausalLM"
    if row["deepseek"]:
        architecture = "DeepseekV3ForCausalLM"
    model = SimpleNamespace(
        hf_config=SimpleNamespace(architectures=[architecture]), has_asymmetric_kv=bool(row["asymmetric_kv"]),
        has_attention_sinks=bool(row["sinks"]), get_num_kv_heads=lambda size: row["num_heads_k"],
    )  # fmt: skip
    args = SimpleNamespace(
        speculative_algorithm=None, speculative_eagle_topk=None, page_size=None, tp_size=1,
        attention_backend=None,
        enable_deterministic_inference=bool(row["deterministic"]), _resolved_overrides=(),
    )  # fmt: skip
    with modules.context.override_platform(**facts):
        if row["deterministic"]:
            modules.overrides._deterministic_is_deepseek_model = lambda view: bool(row["deepseek"])
            return str(modules.overrides._deterministic_attention_backend(args)["attention_backend"])
        return str(modules.base.get_default_attn_backend(args, bool(row["mla"]), model))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.wheel))
    modules = SimpleNamespace(
        base=importlib.import_module("sglang.srt.arg_groups.model_override_base"),
        overrides=importlib.import_module("sglang.srt.arg_groups.overrides"),
        context=importlib.import_module("sglang.srt.runtime_context"),
    )
    found = []
    for values in product(FACTS, (0, 1), (0, 1), (0, 1), (1, 16, 128), (0, 1), (0, 1)):
        row = dict(zip(COLUMNS, values, strict=True))
        if row["deepseek"] == (row["mla"] and row["deterministic"]):  # DeepSeek's models alone are told apart
            found.append(row | {"backend": answer(row, modules)})
    write(options.out, (*COLUMNS, "backend"), found)
    print(f"{len(found)} rows")


if __name__ == "__main__":
    main()
