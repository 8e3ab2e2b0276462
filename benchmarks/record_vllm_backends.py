"""Records which attention backend vLLM takes, by vLLM's own selector, without a GPU.

    python benchmarks/record_vllm_backends.py WHEEL tests/data/golden/vllm_backends_0.33.0.csv.gz --count 6000

WHEEL is a folder with the Python files of a vllm wheel, unpacked; the running Python needs torch and what the
wheel depends on (for 0.33.0 and 0.20.x flashinfer-python and nvidia-cutlass-dsl too: a backend whose import
fails is passed over). Compiled extensions are stood in for by empty modules, since the selector only asks
whether they import; the platform answers with the row's compute capability; the configuration is a plain
object with the fields that the selector reads. TensorRT-LLM's cubins are taken as there. Everything else,
validate_configuration of every backend with its reasons included, is upstream's own.

A row: the inputs, ``backend`` (empty: none is valid, or a forced one is not), ``reasons`` as
``NAME: reason; reason | NAME: …`` in the order of the list, ``fa`` the FlashAttention version that
FlashAttentionImpl settles on, ``decode`` and ``prefill`` what FlashInfer's backend launches for each phase.

With --mla-prefill, a row is a GPU, a dtype and a model's head dims, and the answers are MLA's backend of
prefill ("" where none is valid) and the FlashAttention that FLASH_ATTN takes there; before there was a list
of them, also whether V is padded to K's head dim. With --mla-pages, of 0.10, a row is a GPU, a backend and a
block size that the user gives ("" for none), and the answers are what an MLA layer runs with.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib
import io
import os
import random
import sys
import types
from importlib.machinery import ModuleSpec
from itertools import product
from pathlib import Path
from typing import Any

EXTENSIONS = (
    "_C", "_C_stable_libtorch", "_moe_C", "_moe_C_stable_libtorch", "_qutlass_C", "_flashmla_C",
    "_flashmla_extension_C", "vllm_flash_attn._vllm_fa2_C", "vllm_flash_attn._vllm_fa3_C", "cumem_allocator",
)  # fmt: skip
COLUMNS = (
    "sm", "head_dim", "dtype", "kv_dtype", "block_size", "num_heads", "num_heads_k", "sinks", "mla", "sparse",
    "mm_prefix", "per_head_scales", "attn_type", "window", "non_causal", "batch_invariant", "nope", "rope",
    "v_dim", "topk", "alibi", "softcap", "fa_asked",
)  # fmt: skip
ANSWERS = ("backend", "reasons", "fa", "decode", "prefill")
PREFILL_COLUMNS = ("sm", "dtype", "batch_invariant", "nope", "rope", "v_dim")
GPUS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")
KV_DTYPES = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla", "nvfp4",
    "int8_per_token_head", "fp8_per_token_head", "turboquant_k8v4",
)  # fmt: skip
HEAD_DIMS = (32, 64, 64, 80, 96, 128, 128, 128, 192, 256, 256, 512, 40, 20, 520)
MLA_SHAPES = ((128, 64, 128), (128, 64, 128), (192, 64, 256), (64, 64, 128), (256, 0, 256), (96, 64, 128))


class Stub(types.ModuleType):
    """A compiled extension that imports and holds nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def stand_in() -> None:
    """Puts the extensions, and a device that nobody touches, in place before vllm is imported."""
    import torch

    for name in EXTENSIONS:
        module = Stub(f"vllm.{name}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
    torch.empty, torch.zeros = on_no_device(torch.empty), on_no_device(torch.zeros)
    properties = types.SimpleNamespace(multi_processor_count=132, total_memory=80 << 30, name="none")
    torch.cuda.get_device_properties = lambda *args, **kwargs: properties
    torch.cuda.get_device_capability = lambda *args, **kwargs: (9, 0)  # until there is a row


def on_no_device(make: Any) -> Any:
    """A maker of tensors that lays those of a GPU nowhere."""

    def made(*args: Any, **kwargs: Any) -> Any:
        kwargs |= {"device": "meta"} if str(kwargs.get("device", "")).startswith("cuda") else {}
        return make(*args, **kwargs)

    return made


class Upstream:
    """The selector of one wheel."""

    choice_alone = False

    def __init__(self, wheel: Path) -> None:
        os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
        sys.path.insert(0, str(wheel))
        stand_in()
        import torch

        self.torch = torch
        platforms = importlib.import_module("vllm.platforms")
        interface = importlib.import_module("vllm.platforms.interface")
        base = importlib.import_module("vllm.platforms.cuda").CudaPlatformBase
        self.capability = interface.DeviceCapability
        asked = self

        class Platform(base):  # type: ignore[misc, valid-type]
            current = None

            @classmethod
            def get_device_capability(cls, device_id: int = 0) -> Any:
                return asked.now

            @classmethod
            def get_device_name(cls, device_id: int = 0) -> str:
                return "none"

        self.now = self.capability(9, 0)
        platforms._current_platform = self.platform = Platform()
        whole = (wheel / "vllm/config/vllm.py").exists()
        self.config = importlib.import_module("vllm.config.vllm" if whole else "vllm.config")
        cubins = importlib.import_module("vllm.utils.flashinfer")
        for name in ("has_nvidia_artifactory", "has_flashinfer", "has_flashinfer_cubin"):
            if hasattr(cubins, name):
                setattr(cubins, name, lambda: True)
        self.cubins = cubins
        self.old = not (wheel / "vllm/v1/attention/selector.py").exists()  # 0.10: a chain of conditions
        selector = "vllm.attention.selector" if self.old else "vllm.v1.attention.selector"
        self.selector = importlib.import_module(selector)
        self.flash = importlib.import_module("vllm.v1.attention.backends.flash_attn")

    def dtype(self, name: str) -> Any:
        return getattr(self.torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[name])

    def configure(self, row: dict[str, Any]) -> Any:
        """What get_current_vllm_config answers for the row; environment and capability too."""
        self.now = self.capability(*map(int, row["sm"].split(".")))
        self.torch.cuda.get_device_capability = lambda *args, **kwargs: (self.now.major, self.now.minor)
        os.environ["VLLM_BATCH_INVARIANT"] = str(int(row["batch_invariant"]))
        for function in vars(self.cubins).values():
            if callable(clear := getattr(function, "cache_clear", None)):
                clear()
        new = types.SimpleNamespace
        text = new(attn_logit_softcapping=50.0 if row["softcap"] else None)
        if row["mla"]:
            text.kv_lora_rank = 512
            text.qk_nope_head_dim, text.qk_rope_head_dim, text.v_head_dim = (
                row["nope"],
                row["rope"],
                row["v_dim"],
            )
        if row["topk"]:
            text.index_topk = row["topk"]
        model = new(
            hf_text_config=text, hf_config=text, is_mm_prefix_lm=bool(row["mm_prefix"]), rswa_window=None,
            is_diffusion=False, is_hybrid=False, dtype=self.dtype(row["dtype"]),
            get_num_attention_heads=lambda parallel: row["num_heads"],
            get_num_kv_heads=lambda parallel: row["num_heads_k"], get_head_size=lambda: row["head_dim"],
        )  # fmt: skip
        attention = new(
            backend=None, backend_per_kind={}, flash_attn_version=row["fa_asked"] or None,
            use_trtllm_attention=None, disable_flashinfer_q_quantization=False,
            use_non_causal=bool(row["non_causal"]), mla_prefill_backend=None,
        )  # fmt: skip
        method = "dflash" if row["non_causal"] else "none"
        config = new(
            model_config=model, attention_config=attention,
            cache_config=new(
                block_size=row["block_size"], user_specified_block_size=row["block_size"] is not None,
                cache_dtype=row["kv_dtype"],
            ),
            parallel_config=new(
                prefill_context_parallel_size=1, decode_context_parallel_size=1, tensor_parallel_size=1,
            ),
            kv_transfer_config=None,
            speculative_config=new(method=method, enable_adaptive_verification=False),
            compilation_config=new(), scheduler_config=new(),
        )  # fmt: skip
        self.config._current_vllm_config = config
        return config

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the wheel's selector says."""
        self.configure(row)
        if self.old:
            return self.old_answer(row)
        selector = self.selector
        given = {
            "head_size": row["head_dim"], "dtype": self.dtype(row["dtype"]),
            "kv_cache_dtype": row["kv_dtype"], "block_size": row["block_size"], "use_mla": bool(row["mla"]),
            "has_sink": bool(row["sinks"]),
            "use_sparse": bool(row["sparse"]), "use_mm_prefix": bool(row["mm_prefix"]),
            "use_per_head_quant_scales": bool(row["per_head_scales"]), "attn_type": row["attn_type"],
            "has_sliding_window": bool(row["window"]), "use_non_causal": bool(row["non_causal"]),
            "use_batch_invariant": bool(row["batch_invariant"]),
        }  # fmt: skip
        kept = selector.AttentionSelectorConfig._fields
        asked = selector.AttentionSelectorConfig(**{name: given[name] for name in given if name in kept})
        valid, invalid = self.platform.get_valid_backends(self.now, asked, num_heads=row["num_heads"])
        names = [getattr(each, "backend", each[0]).name for each in valid]
        reasons = " | ".join(
            f"{backend.name}: {'; '.join(why)}"
            for backend, (_, why) in sorted(invalid.items(), key=lambda i: i[1][0])
        )
        try:
            path = self.platform.get_attn_backend_cls(None, asked, num_heads=row["num_heads"])
        except ValueError:
            path = ""
        backend = names[0] if path else ""
        found = {"backend": backend, "reasons": reasons, "fa": "", "decode": "", "prefill": ""}
        if backend == "FLASH_ATTN":
            found["fa"] = self.flash_version(row)
        if backend == "FLASHINFER" and not self.choice_alone:
            found |= self.flashinfer(row)
        return found

    def old_answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """Of 0.10's V1 engine: the class that the chain ends in, without reasons."""
        choose = self.platform.get_attn_backend_cls
        sinks = (bool(row["sinks"]),) if "has_sink" in choose.__code__.co_varnames else ()
        block_size = row["block_size"] or 16
        path = choose(
            None,
            row["head_dim"],
            self.dtype(row["dtype"]),
            row["kv_dtype"],
            block_size,
            True,
            bool(row["mla"]),
            *sinks,
        )
        backend = path.rpartition(".")[2].removesuffix("Backend")
        found = {"backend": backend, "reasons": "", "fa": "", "decode": "", "prefill": ""}
        if backend == "FlashAttention":
            os.environ.pop("VLLM_FLASH_ATTN_VERSION", None)
            if row["fa_asked"]:
                os.environ["VLLM_FLASH_ATTN_VERSION"] = str(row["fa_asked"])
            version = importlib.import_module("vllm.attention.utils.fa_utils").get_flash_attn_version
            found["fa"] = version(requires_alibi=bool(row["alibi"])) or ""
        return found

    def flash_version(self, row: dict[str, Any]) -> Any:
        sinks = self.torch.zeros(row["num_heads"]) if row["sinks"] else None
        try:
            made = self.flash.FlashAttentionImpl(
                row["num_heads"], row["head_dim"], 1.0, row["num_heads_k"],
                [1.0] * row["num_heads"] if row["alibi"] else None, 1024 if row["window"] else None,
                row["kv_dtype"], 50.0 if row["softcap"] else None, row["attn_type"], None, sinks,
            )  # fmt: skip
        except (NotImplementedError, AssertionError) as refusal:
            return f"refused: {str(refusal).partition(chr(10))[0]}"
        return made.vllm_flash_attn_version

    def flashinfer(self, row: dict[str, Any]) -> dict[str, str]:
        """FlashInferMetadataBuilder's two choices, by the functions it asks."""
        import inspect

        heads, cubins = (row["num_heads"], row["num_heads_k"]), self.cubins
        phased = "is_prefill" in inspect.signature(cubins.can_use_trtllm_attention).parameters
        builder = importlib.import_module("vllm.v1.attention.backends.flashinfer")
        can = cubins.can_use_trtllm_attention(*heads, **({"is_prefill": False} if phased else {}))
        decode = "native"
        if can and not phased:
            decode = "trtllm-gen"
        elif can and (not (nvfp4_fa2(builder, row)) or self.now.major == 12):
            decode = builder.FlashInferMetadataBuilder._get_flashinfer_trtllm_api_decode_kernel().value
            if decode == "xqa" and not builder._is_xqa_head_dim_supported(row["head_dim"]):
                decode = "native"
        queries = self.query_dtype(row, builder, can)
        prefill = cubins.use_trtllm_attention(
            *heads, 512, 1024, 1, row["kv_dtype"], queries, is_prefill=True,
            force_use_trtllm=True if (row["block_size"] or 0) >= 128 and phased else None,
            has_sinks=bool(row["sinks"]),
        )  # fmt: skip
        return {"decode": decode, "prefill": "trtllm-gen" if prefill else "native"}

    def query_dtype(self, row: dict[str, Any], builder: Any, can: bool) -> Any:
        """What the builder makes of the queries of a prefill, by its own method where it has one."""
        plain, made = self.dtype(row["dtype"]), builder.FlashInferMetadataBuilder
        if hasattr(made, "get_q_data_type"):
            asked = types.SimpleNamespace(
                vllm_config=self.config._current_vllm_config, cache_dtype=row["kv_dtype"],
                model_config=types.SimpleNamespace(dtype=plain), nvfp4_fa2=nvfp4_fa2(builder, row),
                kv_cache_spec=types.SimpleNamespace(dtype=plain),
            )  # fmt: skip
            return made.get_q_data_type(asked, is_prefill=True)
        if can and row["kv_dtype"].startswith("fp8"):
            return builder.FlashInferBackend.get_fp8_dtype_for_flashinfer(row["kv_dtype"])
        return plain


def mla_prefill(upstream: Upstream) -> list[dict[str, Any]]:
    """MLA's backend of prefill for every GPU, dtype and model."""
    module = "vllm.v1.attention.backends.mla.prefill"
    asked = importlib.import_module(f"{module}.selector").MLAPrefillSelectorConfig
    dimensions = importlib.import_module(f"{module}.base").MLADimensions
    version = importlib.import_module("vllm.v1.attention.backends.fa_utils").get_flash_attn_version
    plain, found = rows(1)[0], []
    for sm, dtype, invariant, dims in product(
        GPUS, ("bf16", "fp16", "fp32"), (0, 1), dict.fromkeys(MLA_SHAPES)
    ):
        row = dict(zip(("nope", "rope", "v_dim"), dims, strict=True)) | {"mla": 1, "head_dim": 576}
        named = dict(zip(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), dims, strict=True))
        row |= {
            "sm": sm,
            "dtype": dtype,
            "batch_invariant": invariant,
            "softcap": 0,
            "topk": 0,
            "fa_asked": 0,
        }
        row |= {"mm_prefix": 0, "kv_dtype": "auto", "block_size": None, "non_causal": 0}
        upstream.configure(plain | row)
        try:
            config = asked(dtype=upstream.dtype(dtype), mla_dimensions=dimensions(**named))
            backend = upstream.platform.get_mla_prefill_backend_cls(config).get_name()
        except ValueError:
            backend = ""
        flash = version(head_size=dims[0] + dims[1], head_size_v=dims[2]) if backend == "FLASH_ATTN" else ""
        found.append({name: row[name] for name in PREFILL_COLUMNS} | {"backend": backend, "fa": flash or ""})
    return found


def mla_prefill_before_a_list(upstream: Upstream) -> list[dict[str, Any]]:
    """The same by MLACommonImpl's own constructor, as it was before 0.33's list of backends."""
    place = "model_executor.layers.attention.mla_attention"
    if upstream.old:
        place = "v1.attention.backends.mla.common"
    module, found = importlib.import_module(f"vllm.{place}"), []
    module.flashinfer_available = True  # 0.10's word of it
    made = type("Impl", (module.MLACommonImpl,), {})
    made.__abstractmethods__ = frozenset()
    plain = rows(1)[0] | {"softcap": 0, "topk": 0, "fa_asked": 0, "mm_prefix": 0, "kv_dtype": "auto"}
    plain |= {"block_size": None, "non_causal": 0, "mla": 1, "head_dim": 576}
    os.environ.pop("VLLM_FLASH_ATTN_VERSION", None)
    for sm, dtype, invariant, dims in product(GPUS, ("bf16",), (0, 1), dict.fromkeys(MLA_SHAPES)):
        if upstream.old and invariant:
            continue
        row = plain | {"sm": sm, "dtype": dtype, "batch_invariant": invariant}
        row |= dict(zip(("nope", "rope", "v_dim"), dims, strict=True))
        config = upstream.configure(row)
        asked = config.attention_config
        asked.use_cudnn_prefill = asked.use_trtllm_ragged_deepseek_prefill = False
        asked.disable_flashinfer_prefill = True  # the default of 0.20
        config.parallel_config.cp_kv_cache_interleave_size = 1
        for name, function in vars(module).items():
            if name.startswith("use_") and hasattr(function, "cache_clear"):
                function.cache_clear()
        sizes = (512, *dims[:2], sum(dims[:2]), dims[2])
        impl = made(16, 576, 1.0, 1, None, None, "auto", None, "decoder", None, None, *sizes, None)
        ends = impl._run_prefill_new_tokens.__name__.rpartition("_")[2]
        taken = {"fa": "FLASH_ATTN", "fi": "FLASHINFER", "ragged": "TRTLLM_RAGGED", "cudnn": "CUDNN"}[ends]
        answers = {"backend": taken, "fa": getattr(impl, "vllm_flash_attn_version", None) or ""}
        answers["padded"] = int(impl._pad_v)
        found.append({name: row[name] for name in PREFILL_COLUMNS} | answers)
    return found


def mla_pages(upstream: Upstream) -> list[dict[str, Any]]:
    """What a layer of MLA runs with for every GPU, backend and block size that is asked for."""
    names = ("", "CUTLASS_MLA", "FLASHINFER_MLA", "FLASHMLA", "FLASH_ATTN_MLA", "TRITON_MLA")
    zero = ("softcap", "topk", "fa_asked", "mm_prefix", "non_causal", "batch_invariant")
    plain = rows(1)[0] | dict.fromkeys(zero, 0) | {"kv_dtype": "auto", "mla": 1, "head_dim": 576}
    plain |= {"nope": 128, "rope": 64, "v_dim": 128, "dtype": "bf16"}
    envs, found = importlib.import_module("vllm.envs"), []
    flash_mla = importlib.import_module("vllm.attention.ops.flashmla")
    enum = importlib.import_module("vllm.platforms.interface")._Backend
    for sm, asked, given in product(GPUS, names, (None, 16, 32, 64, 128)):
        config = upstream.configure(plain | {"sm": sm, "block_size": given})
        config.model_config.use_mla = True
        config.parallel_config.data_parallel_size, config.parallel_config.worker_cls = 1, "any"
        os.environ.pop("VLLM_ATTENTION_BACKEND", None)
        vars(envs).pop("VLLM_ATTENTION_BACKEND", None)  # which upstream sets as a default
        if asked:
            os.environ["VLLM_ATTENTION_BACKEND"] = asked
        flash_mla.is_flashmla_supported = lambda major=upstream.now.major: (major == 9, None)
        upstream.platform.check_and_update_config(config)
        page = config.cache_config.block_size
        named = envs.VLLM_ATTENTION_BACKEND
        wanted = enum[named] if named else None
        choose, given_dtype = upstream.platform.get_attn_backend_cls, upstream.dtype("bf16")
        path = choose(wanted, 576, given_dtype, "auto", page, True, True, False)
        taken = path.rpartition(".")[2].removesuffix("Backend")
        found.append({"sm": sm, "asked": asked, "given": given, "backend": taken, "page": page})
    return found


def nvfp4_fa2(builder: Any, row: dict[str, Any]) -> bool:
    return bool(row["kv_dtype"].startswith("nvfp4") and builder._nvfp4_kv_on_fa2())


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Inputs drawn at random, the usual more often than the odd."""
    draw = random.Random(seed)
    rare = lambda share: int(draw.random() < share)  # noqa: E731
    found = []
    for _ in range(count):
        mla = rare(0.3)
        sparse = rare(0.45) if mla else rare(0.02)
        nope, rope, v_dim = draw.choice(MLA_SHAPES) if mla else (0, 0, 0)
        head_dims = (
            (576, 576, 512, 320)
            if mla
            else (32, 64, 64, 80, 96, 128, 128, 128, 192, 256, 256, 512, 40, 20, 520)
        )
        heads_k = 1 if mla else draw.choice((1, 2, 4, 8, 8, 16, 32))
        usual = rare(0.55)
        found.append(
            {
                "sm": draw.choice(GPUS), "head_dim": draw.choice(head_dims),
                "dtype": draw.choice(("bf16", "bf16", "bf16", "fp16", "fp32")),
                "kv_dtype": "auto" if usual else draw.choice(KV_DTYPES),
                "block_size": draw.choice((None, None, None, 16, 32, 64, 128, 256, 8, 48, 1024)),
                "num_heads": draw.choice((8, 16, 32, 64, 128))
                if mla
                else heads_k * draw.choice((1, 4, 7, 8)),
                "num_heads_k": heads_k, "sinks": rare(0.12), "mla": mla, "sparse": sparse,
                "mm_prefix": rare(0.12), "per_head_scales": rare(0.06),
                "attn_type": draw.choice(("decoder",) * 8 + ("encoder", "encoder_only", "encoder_decoder")),
                "window": rare(0.2), "non_causal": rare(0.08), "batch_invariant": rare(0.2), "nope": nope,
                "rope": rope, "v_dim": v_dim,
                "topk": draw.choice((2048, 2048, 1024, 100, 0)) if sparse else 0,
                "alibi": rare(0.06), "softcap": rare(0.08),
                "fa_asked": draw.choice((2, 3, 4)) if draw.random() < 0.1 else 0,
            }
        )  # fmt: skip
    return found


def known(row: dict[str, Any], dtypes: list[str]) -> bool:
    """Whether this version has the row's KV dtype at all."""
    return row["kv_dtype"] in dtypes


def write(path: Path, columns: tuple[str, ...], found: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if row[name] is None else row[name] for name in columns} for row in found)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--mla-prefill", action="store_true")
    parser.add_argument("--mla-pages", action="store_true")
    parser.add_argument("--choice-alone", action="store_true", help="leave out FlashInfer's kernels")
    options = parser.parse_args()
    upstream = Upstream(options.wheel)
    upstream.choice_alone = options.choice_alone
    if options.mla_pages:
        write(options.out, ("sm", "asked", "given", "backend", "page"), mla_pages(upstream))
        return
    if options.mla_prefill and not (options.wheel / "vllm/v1/attention/backends/mla/prefill").exists():
        found = mla_prefill_before_a_list(upstream)
        write(options.out, (*PREFILL_COLUMNS, "backend", "fa", "padded"), found)
        return
    if options.mla_prefill:
        write(options.out, (*PREFILL_COLUMNS, "backend", "fa"), mla_prefill(upstream))
        return
    from typing import get_args

    dtypes = list(get_args(importlib.import_module("vllm.config.cache").CacheDType))
    asked = [row for row in rows(options.count) if known(row, dtypes)]
    write(options.out, (*COLUMNS, *ANSWERS), [row | upstream.answer(row) for row in asked])
    print(f"{len(asked)} rows")


if __name__ == "__main__":
    main()
