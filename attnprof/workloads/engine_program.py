"""Serves random prompts with an offline engine: run by the engine's own Python, which may not have attnprof.

``python engine_program.py JSON``, JSON being what ``EngineOptions.program`` says. The processes that an
engine spawns import this file too: nothing runs unless it is the program.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve(asked: dict[str, Any]) -> int:
    """Generates ``max_new_tokens`` for every prompt; returns the number of tokens that came out."""
    folder = None
    try:
        if "config" in asked:
            folder = tempfile.mkdtemp(prefix="attnprof-model-")
            (Path(folder) / "config.json").write_text(json.dumps(asked["config"]), encoding="utf-8")
        engine: Callable[..., int] = _vllm if asked["engine"] == "vllm" else _sglang
        return engine(asked, folder or asked["model"], _prompts(asked))
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _prompts(asked: dict[str, Any]) -> list[list[int]]:
    chosen = random.Random(asked["seed"])
    return [[chosen.randrange(1, 1000) for _ in range(length)] for length in asked["lengths"]]


def _room(asked: dict[str, Any]) -> int:
    """Tokens that the longest request comes to."""
    return int(max(asked["lengths"])) + int(asked["max_new_tokens"])


def _vllm(asked: dict[str, Any], model: str, prompts: list[list[int]]) -> int:
    more: dict[str, Any] = {}
    if asked["on_cpu"]:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        more = {"dtype": "float32", "enforce_eager": True}  # compiling takes minutes there
    if asked["layers"] and "config" not in asked:
        more["hf_overrides"] = {"num_hidden_layers": asked["layers"]}
    import vllm

    llm = vllm.LLM(
        model=model,
        skip_tokenizer_init=True,
        load_format="dummy" if asked["random"] else "auto",
        max_model_len=_room(asked),
        max_num_seqs=asked["concurrency"] or len(prompts),
        seed=asked["seed"],
        **more,
    )
    chosen = vllm.SamplingParams(
        max_tokens=asked["max_new_tokens"], ignore_eos=True, detokenize=False, temperature=0.0
    )
    done = llm.generate([{"prompt_token_ids": ids} for ids in prompts], chosen, use_tqdm=False)
    return sum(len(one.outputs[0].token_ids) for one in done)


def _sglang(asked: dict[str, Any], model: str, prompts: list[list[int]]) -> int:
    more: dict[str, Any] = {}
    if asked["layers"] and "config" not in asked:
        more["json_model_override_args"] = json.dumps({"num_hidden_layers": asked["layers"]})
    import sglang

    engine = sglang.Engine(
        model_path=model,
        skip_tokenizer_init=True,
        load_format="dummy" if asked["random"] else "auto",
        context_length=_room(asked),
        max_running_requests=asked["concurrency"] or len(prompts),
        random_seed=asked["seed"],
        **more,
    )
    try:
        sampling = {"max_new_tokens": asked["max_new_tokens"], "ignore_eos": True, "temperature": 0.0}
        done = engine.generate(input_ids=prompts, sampling_params=sampling)
        return sum(len(one["output_ids"]) for one in done)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    tokens = serve(json.loads(sys.argv[1]))
    print(f"{tokens} tokens")
