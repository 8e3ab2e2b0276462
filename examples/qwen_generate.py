"""Qwen2.5 generate() with ranges of its own: one "step=N" per model forward.

Runs alone, or recorded:  attnprof run -- python examples/qwen_generate.py --max-new-tokens 64

Without --model a small Qwen2 with random weights is built, with the attention of Qwen2.5-7B (28 query heads,
4 key heads, head_dim 128): nothing is downloaded, and the text it writes means nothing.
"""

from __future__ import annotations

import argparse
import os
import time

import torch

try:
    import nvtx  # any version; nsys 2022.4 and 2023.4 hear nothing of 0.2.12 and later
except ImportError:
    nvtx = None


def build_model(path: str | None, device: torch.device):
    """A Qwen2 from a folder or hub id, else a small random one; bf16 on a GPU."""
    if path is None:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    on_gpu = device.type == "cuda"
    attention = "flash_attention_2" if on_gpu and is_flash_attn_2_available() else "sdpa"
    if path is not None:
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention)
    else:
        config = AutoConfig.for_model(
            "qwen2",
            hidden_size=448,
            intermediate_size=1024,
            vocab_size=1024,
            num_hidden_layers=2,
            num_attention_heads=28,
            num_key_value_heads=4,
            head_dim=128,
        )
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(device, torch.bfloat16 if on_gpu else torch.float32).eval()


def annotate_steps(model: torch.nn.Module) -> None:
    """Puts each forward of the model in an NVTX range "step=N", where nvtx is installed."""
    if nvtx is None:
        return
    forward, steps = model.forward, iter(range(1 << 30))

    def annotated(*args, **kwargs):
        with nvtx.annotate(f"step={next(steps)}"):
            return forward(*args, **kwargs)

    model.forward = annotated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", metavar="PATH", help="weights to load: a folder or a hub id")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--prompt-tokens", type=int, default=25, metavar="N", help="random token ids")
    arguments = parser.parse_args()
    if min(arguments.max_new_tokens, arguments.prompt_tokens) < 1:
        parser.error("--max-new-tokens and --prompt-tokens must be at least 1")

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    model = build_model(arguments.model, device)
    annotate_steps(model)
    prompt = torch.randint(1, model.config.vocab_size, (1, arguments.prompt_tokens), device=device)
    model.generation_config.eos_token_id = None  # exactly N tokens, whatever they are
    model.generation_config.pad_token_id = 0

    started = time.perf_counter()
    with torch.no_grad():
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=arguments.max_new_tokens,
            do_sample=False,
        )
    elapsed = time.perf_counter() - started
    new_tokens = output.shape[1] - prompt.shape[1]
    print(f"{new_tokens} tokens in {elapsed:.2f} s on {device}, {model.config._attn_implementation}")


if __name__ == "__main__":
    main()
