"""The generate workload: Hugging Face generate() on a preset, a folder or a hub model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnprof.errors import UsageError
from attnprof.instrument.models import describe_model
from attnprof.instrument.recorder import Recorder
from attnprof.machine.gpu_devices import has_gpu
from attnprof.workloads.presets import DEFAULT_LAYERS, find_preset, preset_name
from attnprof.workloads.spec import DEFAULT_PROMPT_TOKENS, GenerateOptions, spread_lengths

_WEIGHTS = ("*.safetensors", "*.bin")


def prepare(options: GenerateOptions, recorder: Recorder) -> Callable[[], dict[str, Any]]:
    """Builds and warms up the model; returns what generates and describes the workload.

    Raises UsageError where the model, its library or the device cannot be had.
    """
    offline = find_preset(options.model) is not None or Path(options.model).is_dir()
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    device = pick_device(options.device, recorder)
    if device.type == "cpu":
        torch.set_num_threads(1)  # more threads than free cores make a token ten times slower
    torch.manual_seed(options.seed)
    attn = options.attn if options.attn != "auto" else _best_attention(device)
    try:
        model, weights = _build(options, device, attn)
    except Exception as error:
        # A user's config fails in any way there is; a preset's own only where a library is missing.
        if find_preset(options.model) and not isinstance(error, ImportError | ValueError):
            raise
        raise UsageError(
            f"cannot build {options.model} with {attn}: {_first_lines(error)}", hint=_hint(attn)
        ) from error
    model.eval()
    input_ids = _prompt(options, model, recorder).to(device)
    mask, lengths = torch.ones_like(input_ids), None
    if options.left_padding:
        lengths = spread_lengths(input_ids.shape[1], options.batch)
        for row, length in enumerate(lengths):
            mask[row, : input_ids.shape[1] - length] = 0
        input_ids = input_ids * mask  # 0 is the padding
    # eos off: a random model must not stop early. disable_compile: a compiled decode hides its calls.
    config = transformers.GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=True,
        disable_compile=True,
        **({"cache_implementation": "static"} if options.static_cache else {}),
    )
    model.generation_config = config
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and input_ids.shape[1] + options.max_new_tokens > limit:
        recorder.note(f"the model knows {limit} positions; the run goes beyond them")
    shown = describe_model(model, name=_shown_name(options.model), weights=weights)
    recorder.found_model(shown, model.config._attn_implementation)
    _warm_up(model, input_ids, mask, recorder)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            output = model.generate(input_ids, attention_mask=mask)
        if device.type == "cuda":
            torch.cuda.synchronize()
        new_tokens = output[:, input_ids.shape[1] :]
        return {
            "model": shown,
            "attn_implementation": model.config._attn_implementation,
            "batch": options.batch,
            "prompt_tokens": int(input_ids.shape[1]),
            "prompt_lengths": lengths,
            "cache": "static" if options.static_cache else "dynamic",
            "max_new_tokens": options.max_new_tokens,
            "new_tokens": int(new_tokens.shape[1]),
            "tokens": new_tokens.tolist(),
            "seed": options.seed,
        }

    return run


def pick_device(name: str, recorder: Recorder) -> Any:
    """The torch.device of --device; a GPU that torch cannot use is noted with torch's reason."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if said and not available and has_gpu():
        recorder.note(f"torch cannot use the GPU: {_first_lines(said[0].message)}")
    if name.startswith("cuda") and not available:
        raise UsageError(f"--device {name}: torch sees no GPU", hint="--device cpu, or let it choose: auto")
    return torch.device("cuda" if name == "auto" and available else "cpu" if name == "auto" else name)


def _best_attention(device: Any) -> str:
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def _build(options: GenerateOptions, device: Any, attn: str) -> tuple[Any, str]:
    """(model on the device, "random" or "loaded")."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    common: dict[str, Any] = {"attn_implementation": attn, _dtype_argument(): dtype}
    preset = find_preset(options.model)
    folder = Path(options.model)
    if preset is not None:
        config = AutoConfig.for_model(preset.model_type, **preset.config(options.layers or DEFAULT_LAYERS))
    else:
        config = AutoConfig.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
        if options.layers is not None:
            _cut_layers(config.get_text_config(), options.layers)
    has_weights = preset is None and (not folder.is_dir() or any(any(folder.glob(p)) for p in _WEIGHTS))
    if has_weights:
        model = AutoModelForCausalLM.from_pretrained(
            options.model, config=config, trust_remote_code=options.trust_remote_code, **common
        )
        return model.to(device), "loaded"
    remote = {} if preset else {"trust_remote_code": options.trust_remote_code}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, **remote, **common)
    return model.to(device), "random"


def _cut_layers(config: Any, layers: int) -> None:
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _dtype_argument() -> str:
    """from_pretrained's name for the dtype: ``torch_dtype`` before transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _prompt(options: GenerateOptions, model: Any, recorder: Recorder) -> Any:
    """Token ids [batch, prompt_tokens] on the CPU."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    if options.prompt is None:
        generator = torch.Generator().manual_seed(options.seed)
        length = options.prompt_tokens or DEFAULT_PROMPT_TOKENS
        return torch.randint(1, vocabulary, (options.batch, length), generator=generator)
    if find_preset(options.model) is None:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                options.model, trust_remote_code=options.trust_remote_code
            )
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(
                f"{options.model} has no tokenizer that loads: {_first_lines(error)}",
                hint="use --prompt-tokens N for random tokens",
            ) from error
        ids = tokenizer(options.prompt)["input_ids"]
    else:
        ids = [1 + byte for byte in options.prompt.encode()]
        recorder.note("a preset has no tokenizer: each UTF-8 byte of the prompt is one token")
    return torch.tensor([ids] * options.batch)


def _warm_up(model: Any, input_ids: Any, mask: Any, recorder: Recorder) -> None:
    """Two tokens, unrecorded: the first call builds caches and loads kernels. Ranged as "warmup"."""
    import torch

    warmup = recorder.ranges.channel("warmup")
    recorder.paused = True
    warmup.push(0)
    try:
        with torch.no_grad():
            model.generate(input_ids, attention_mask=mask, max_new_tokens=2)
        if input_ids.is_cuda:
            torch.cuda.synchronize()
    finally:
        warmup.pop()
        recorder.paused = False


def _shown_name(model: str) -> str:
    return preset_name(model) if find_preset(model) else model


def _first_lines(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:300]


def _hint(attn: str) -> str:
    if attn not in ("sdpa", "eager"):
        return f"{attn} needs its library and a GPU; --attn sdpa runs everywhere"
    return "check the name or folder, and that the machine may reach the hub if it is a hub id"
