"""One decode call with a given split count, by whichever way this machine has of asking for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from attnprof.dispatch import predict
from attnprof.machine.library_versions import versions
from attnprof.model import AttentionCall, Gpu
from benchmarks.gpu_evidence.calls import cumulative
from benchmarks.gpu_evidence.sm_count import SmCount, find_sm_count

HEADS, HEADS_K, HEAD_DIM = 28, 4, 128
_MOST_SMS = 1024

Inputs = tuple[Any, Any, Any]  # q [batch, 1, heads, head_dim]; k, v [batch, seqlen_k, heads_k, head_dim]


def decode_inputs(batch: int, seqlen_k: int) -> Inputs:
    """Random bf16 tensors on the GPU."""
    import torch

    def tensor(*shape: int) -> Any:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    keys = (batch, seqlen_k, HEADS_K, HEAD_DIM)
    return tensor(batch, 1, HEADS, HEAD_DIM), tensor(*keys), tensor(*keys)


class Forcer:
    """Makes decode calls with a given split count; ``how`` says in words by which means."""

    how: str
    library: str
    version: str

    def automatic(self, inputs: Inputs) -> Any:
        """The output of the call as the library splits it by itself."""
        raise NotImplementedError

    @contextmanager
    def forcing(self, batch: int, seqlen_k: int, num_splits: int) -> Iterator[Callable[[Inputs], Any] | None]:
        """Inside the block, the call with ``num_splits``; None where it cannot be had."""
        raise NotImplementedError

    def chosen(self, gpu: Gpu, batch: int, seqlen_k: int) -> int:
        """The split count predicted for the automatic call."""
        return predict(self._call(batch, seqlen_k), gpu, self.version).num_splits or 1

    def geometry(self) -> dict[str, Any]:
        """What all its calls have in common."""
        call = self._call(1, 1)
        named = ("library", "entry", "seqlen_q", "num_heads", "num_heads_k", "head_dim", "dtype")
        return {name: getattr(call, name) for name in named}

    def _call(self, batch: int, seqlen_k: int) -> AttentionCall:
        return AttentionCall("torch", "fwd", batch, 1, seqlen_k, HEADS, HEADS_K, HEAD_DIM)


class ByPackage(Forcer):
    """flash_attn_with_kvcache of the flash_attn package takes num_splits."""

    how = "num_splits of flash_attn_with_kvcache"

    def __init__(self, version: str) -> None:
        import flash_attn

        self.library, self.version = "flash_attn", version
        self._function = flash_attn.flash_attn_with_kvcache

    def automatic(self, inputs: Inputs) -> Any:
        return self._function(*inputs, num_splits=0)

    @contextmanager
    def forcing(self, batch: int, seqlen_k: int, num_splits: int) -> Iterator[Callable[[Inputs], Any] | None]:
        yield lambda inputs: self._function(*inputs, num_splits=num_splits)

    def _call(self, batch: int, seqlen_k: int) -> AttentionCall:
        return replace(super()._call(batch, seqlen_k), library="flash_attn", entry="fwd_kvcache")


class ByOperator(Forcer):
    """The packed form of torch's flash operator takes num_splits in some releases."""

    how = "num_splits of torch's flash operator"

    def __init__(self, version: str) -> None:
        self.library, self.version = "torch", version

    def automatic(self, inputs: Inputs) -> Any:
        return _packed(inputs)

    @contextmanager
    def forcing(self, batch: int, seqlen_k: int, num_splits: int) -> Iterator[Callable[[Inputs], Any] | None]:
        yield lambda inputs: _packed(inputs, num_splits=num_splits)

    def _call(self, batch: int, seqlen_k: int) -> AttentionCall:
        return replace(super()._call(batch, seqlen_k), entry="varlen_fwd")


class BySmCount(Forcer):
    """torch's host code, told another SM count, takes the split count of a GPU that has as many."""

    how = "an SM count told to torch's host code"

    def __init__(self, version: str, gpu: Gpu, field: SmCount) -> None:
        self.library, self.version = "torch", version
        self._gpu, self._field = gpu, field

    def automatic(self, inputs: Inputs) -> Any:
        return _dense(inputs)

    @contextmanager
    def forcing(self, batch: int, seqlen_k: int, num_splits: int) -> Iterator[Callable[[Inputs], Any] | None]:
        num_sms = sms_that_give(num_splits, self._call(batch, seqlen_k), self._gpu, self.version)
        if num_sms is None:
            yield None
            return
        with self._field.told(num_sms):
            yield _dense


def find_forcer(gpu: Gpu, torch_version: str) -> Forcer | None:
    """The first means there is."""
    return next(forcers(gpu, torch_version), None)


def forcers(gpu: Gpu, torch_version: str) -> Iterator[Forcer]:
    """Every means there is: the package, torch's operator, the SM count."""
    import torch

    installed = versions()["flash_attn"]
    if installed is not None:
        yield ByPackage(installed)
    schema = torch.ops.aten._flash_attention_forward.default._schema
    if any(argument.name == "num_splits" for argument in schema.arguments):
        yield ByOperator(torch_version)
    field = find_sm_count()
    if field is not None:
        yield BySmCount(torch_version, gpu, field)


def sms_that_give(num_splits: int, call: AttentionCall, gpu: Gpu, version: str) -> int | None:
    """The SM count nearest the GPU's own with which the call gets ``num_splits``; None where none does."""
    for num_sms in sorted(range(1, _MOST_SMS + 1), key=lambda count: abs(count - gpu.num_sms)):
        if predict(call, replace(gpu, num_sms=num_sms), version).num_splits == num_splits:
            return num_sms
    return None


def _dense(inputs: Inputs) -> Any:
    import torch

    q, k, v = inputs
    operator = torch.ops.aten._flash_attention_forward
    return operator(q, k, v, None, None, q.shape[1], k.shape[1], 0.0, False, False)[0]


def _packed(inputs: Inputs, **options: Any) -> Any:
    import torch

    q, k, v = inputs
    batch, seqlen_k = k.shape[:2]
    cu_q, cu_k = cumulative(batch, 1), cumulative(batch, seqlen_k)
    flat = (tensor.flatten(0, 1) for tensor in (q, k, v))
    operator = torch.ops.aten._flash_attention_forward
    return operator(*flat, cu_q, cu_k, 1, seqlen_k, 0.0, False, False, **options)[0]
