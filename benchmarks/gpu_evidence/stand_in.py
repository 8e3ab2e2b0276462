"""A stand-in for the GPU: nothing is launched, and every line that a GPU would run is gone through.

For a rehearsal only. Tensors "on cuda" lie on the CPU, large ones as one row seen many times; the kernels
that appear in the trace of an attention call are made up from the prediction. So whatever is compared agrees
by construction: a rehearsal shows that the program runs, and is evidence of nothing else.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from attnprof.analysis.kernel_resources import resources_of
from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.dispatch import predict
from attnprof.gpus import make_gpu
from attnprof.instrument import flash_attn as hook
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.sdpa import describe as describe_sdpa
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from benchmarks.gpu_evidence.decode import decode_inputs, forcers
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.made_up_trace import GRAPH, LAUNCH, MadeUpProfile
from benchmarks.gpu_evidence.stand_in_operators import flash_attn_cute, vllm_operators

NAME = "stand-in for a rehearsal, no GPU"
_CUDA = torch.device("cuda", 0)
# Elements; a tensor of more is one row seen many times. Weights are made by empty, and written to.
_LARGE = {"randn": 1 << 20, "rand": 1 << 20, "randint": 1 << 20, "empty": 1 << 26}


class Properties(ctypes.Structure):
    """What torch tells of a device; a C struct, as the SM count is looked for in one."""

    _fields_ = (
        ("before", ctypes.c_char * 384),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("multi_processor_count", ctypes.c_int),
        ("L2_cache_size", ctypes.c_int),
        ("after", ctypes.c_char * 256),
    )
    name = NAME


class StandIn(TorchFunctionMode):
    """The device: takes attention calls, notes what each would launch, moves tensors to the CPU."""

    # The recorder leaves a call to whoever overrides torch's functions, unless that is torch itself; this is.
    __module__ = "torch.stand_in"

    def __init__(self, torch_version: str, flash_attn_version: str) -> None:
        super().__init__()
        self.properties = Properties(major=9, minor=0, multi_processor_count=132, L2_cache_size=50 << 20)
        self.launched: list[tuple[KernelLaunch, ...]] = []  # by call
        self.graphs: list[list[int]] = []  # calls by graph
        self.capturing: list[int] | None = None
        self._correlations = itertools.count(1)
        self._versions = {"torch": torch_version, "flash_attn": flash_attn_version}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        of = getattr(func, "__self__", None)
        if name == "__get__" and of is torch.Tensor.device:
            return _CUDA
        if name == "__get__" and of is torch.Tensor.is_cuda:
            return True
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = _on_cpu(args), {key: _on_cpu(value) for key, value in kwargs.items()}
        if name == "_flash_attention_forward":
            return self._operator(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            self._sdpa(*args, **kwargs)
            if 0 in args[1].stride():
                return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if name in ("zero_", "copy_") and 0 in args[0].stride():
            return args[0]
        sizes = args[2:] if name == "randint" else args
        if name in _LARGE and _elements(sizes) > _LARGE[name]:
            return _large(sizes, kwargs.get("dtype"))
        if name == "empty_like" and 0 in args[0].stride():
            return args[0]
        return func(*args, **kwargs)

    def attend(self, call: AttentionCall) -> None:
        """Notes what the call would launch; raises RuntimeError where the library refuses it."""
        gpu = self.gpu()
        prediction = predict(call, gpu, self._versions.get(call.library))
        if prediction.error is not None:
            raise RuntimeError(prediction.error)
        number = len(self.launched)
        self.launched.append(prediction.launches)
        if self.capturing is not None:
            self.capturing.append(number)
            return
        with torch.profiler.record_function(f"{LAUNCH}{number}"):
            pass

    def registers(self, launch: KernelLaunch) -> int:
        """Those of the table, 0 where it has none: made up like the launch itself."""
        found = (resources_of(launch.kernel, self.gpu(), *library) for library in self._versions.items())
        return next((stated.registers for stated in found if stated), 0)

    def next_correlation(self) -> int:
        """Of a launch in a trace: no two of a process share one."""
        return next(self._correlations)

    def gpu(self) -> Gpu:
        """As the host code would see it, told another SM count or not."""
        found = self.properties
        return make_gpu(NAME, found.major, found.minor, found.multi_processor_count)

    def _sdpa(self, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> None:
        mask, dropout_p, causal = (*rest, *(None, 0.0, False)[len(rest) :])[:3]
        fields = describe_sdpa(
            (query.shape, key.shape, value.shape, query.dtype, _CUDA, mask, dropout_p,
             options.get("is_causal", causal), None, options.get("enable_gqa", False), "flash")
        )  # fmt: skip
        self._take(fields, "torch")

    def _take(self, fields: dict[str, Any], library: Any) -> None:
        call = attention_call(CallRecord(0, None, "other", None, fields), library)
        if isinstance(call, NotModelled):
            raise RuntimeError(call.why)
        self.attend(call)

    def _operator(self, q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, *rest: Any, **options: Any) -> Any:
        """aten::_flash_attention_forward: q is [batch, length, heads, head_dim], or packed."""
        max_q, max_k, dropout_p, causal, _debug = rest
        packed = cu_q is not None
        batch = len(cu_q) - 1 if packed else q.shape[0]
        window = (options.get("window_size_left"), options.get("window_size_right"))
        self.attend(
            AttentionCall(
                "torch", "varlen_fwd" if packed else "fwd", batch, max_q, max_k, q.shape[-2], k.shape[-2],
                q.shape[-1], dtype="bf16" if q.dtype == torch.bfloat16 else "fp16", causal=causal,
                window=(-1, -1) if window[0] is None else (window[0], -1 if window[1] is None else window[1]),
                alibi=options.get("alibi_slopes") is not None, dropout_p=dropout_p,
                total_q=q.shape[0] if packed else None, num_splits=options.get("num_splits") or 0,
            )
        )  # fmt: skip
        return (torch.zeros(q.shape, dtype=q.dtype), None)

    def extension(self) -> ModuleType:
        """flash_attn's extension: its entries note what they would launch and return zeros."""
        module: Any = ModuleType("flash_attn_2_cuda")

        def entry(name: str) -> Callable[..., Any]:
            def forward(*args: Any) -> Any:
                noted = Recorder()
                noted.kind = lambda describe, arguments, plain=None: self._take(  # type: ignore[method-assign]
                    describe(arguments), "flash_attn"
                )
                inert = SimpleNamespace(__name__="flash_attn_2_cuda", **{name: lambda *_: None})
                getattr(hook.ExtensionProxy(inert, noted), name)(*args)
                out = torch.zeros(args[0].shape, dtype=args[0].dtype)
                others = 1 if name == "fwd_kvcache" else 3  # softmax_lse; the mask and the random state
                return (out, *(torch.zeros(1) for _ in range(others)))

            return forward

        for name in ("fwd", "varlen_fwd", "fwd_kvcache"):
            setattr(module, name, entry(name))
        return module


class _Event:
    """Its times are made up, the same in every rehearsal, so that the same lines are gone through."""

    told = itertools.count()

    def __init__(self, **options: Any) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1.0 + next(self.told) % 7  # ms


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


def rehearse_other_means(evidence: Evidence) -> None:
    """Asks for a split count by every means: a real run uses the first there is, whichever that will be."""
    gpu, version = evidence.environment()
    for forcer in forcers(gpu, version):
        inputs = decode_inputs(1, 1024)
        forcer.automatic(inputs)
        with forcer.forcing(1, 1024, forcer.chosen(gpu, 1, 1024)) as call:
            assert call is not None
            call(inputs)
        with forcer.forcing(1, 1024, 127) as call:  # more than there are key blocks
            pass


@contextmanager
def standing_in(torch_version: str, flash_attn_version: str) -> Iterator[StandIn]:
    """Inside the block torch has one GPU, which is not there."""
    device = StandIn(torch_version, flash_attn_version)
    _Event.told = itertools.count()

    class Graph:
        def __init__(self) -> None:
            self.number = len(device.graphs)
            device.graphs.append([])

        def replay(self) -> None:
            with torch.profiler.record_function(f"{GRAPH}{self.number}"):
                pass

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        device.capturing = device.graphs[graph.number]
        try:
            yield
        finally:
            device.capturing = None

    @contextmanager
    def on_stream(stream: Any) -> Iterator[None]:
        yield

    def profiler(**options: Any) -> MadeUpProfile:
        return MadeUpProfile(device, real, **options)

    def custom_op(*args: Any, **options: Any) -> Any:
        """flash_attn's operators, registered for tensors on the CPU too."""
        return operator(*args, **{**options, "device_types": None})

    real, operator = torch.profiler.profile, torch.library.custom_op
    nothing = {"init": lambda: None, "synchronize": lambda *_: None, "empty_cache": lambda: None}
    cuda = {
        **nothing,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: device.properties,
        "current_stream": lambda *_: _Stream(),
        "Stream": _Stream,
        "stream": on_stream,
        "Event": _Event,
        "CUDAGraph": Graph,
        "graph": capture,
    }
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch.profiler, "profile", profiler))
        stack.enter_context(mock.patch.object(torch.library, "custom_op", custom_op))
        # The recorder asks tensors for their device past every mode; here the mode is what knows it.
        stack.enter_context(mock.patch.object(torch._C, "DisableTorchFunction", nullcontext))
        modules = {
            "flash_attn_2_cuda": device.extension(),
            "flash_attn.cute": flash_attn_cute(device.attend),
        }
        stack.enter_context(mock.patch.dict(sys.modules, modules))
        vllm = vllm_operators(device.attend)
        stack.enter_context(mock.patch.object(torch.ops, "_vllm_fa3_C", vllm, create=True))
        stack.enter_context(device)
        yield device


def _on_cpu(value: Any) -> Any:
    """The same with "cuda" replaced by "cpu", in a device or among arguments."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    if isinstance(value, str):
        return "cpu" if value == "cuda" or value.startswith("cuda:") else value
    return tuple(map(_on_cpu, value)) if type(value) is tuple else value


def _large(sizes: Any, dtype: Any) -> Any:
    """A tensor of these sizes that holds its last dimension once: contiguous there, as libraries ask."""
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    return torch.zeros(sizes[-1] if len(sizes) > 1 else (), dtype=dtype).expand(*sizes)


def _elements(sizes: Any) -> int:
    """Elements of a tensor whose sizes are given as numbers or as one tuple."""
    total = 1
    for size in sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes:
        total *= size
    return total
