#!/usr/bin/env python3
"""What recording costs: each door with and without attnprof in turn, in one process.

    python benchmarks/bench_recording.py
    python benchmarks/bench_recording.py --rounds 100 --tokens 16 --generations 5
    python benchmarks/bench_recording.py --only "a layer"    # its seconds alone, for the table

CPU time of the thread, so that other work on the machine counts less; the median of ``--rounds`` differences
between 200 calls recorded and 200 not. The libraries do nothing, so that the difference is recording alone:
its arguments told apart, the call kept in memory and in the journal. Ranges are none: NVTX's are not counted.
A generation is a Qwen2 of random weights on the CPU, whole, recorded and not in turn; there what recording
needs is no longer in the processor's caches when the next call comes, and a call costs several times as much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from attnprof.instrument import Recorder, flash_attn, instrument, journal, sdpa
from attnprof.instrument.engines import flash_attn_forks, packed_steps
from attnprof.instrument.engines.packed_steps import Request
from attnprof.instrument.layers import Layers

CALLS = 200


@dataclass(frozen=True)
class Door:
    """One way in: the same call recorded and not."""

    name: str
    recorded: Callable[[], Any]
    plain: Callable[[], Any]


def recorder_in_a_step() -> Recorder:
    """As a program's is: with a journal, in a layer of a step."""
    files = journal.create()
    assert files is not None
    recorder = Recorder(None, journal.Journal(*files))
    recorder.begin_step("decode", 1, 301, 2)
    recorder.begin_layer(0)
    return recorder


def nothing(*args: Any, **kwargs: Any) -> None:
    """In place of a library."""


def sdpa_doors() -> list[Door]:
    real, F.scaled_dot_product_attention = F.scaled_dot_product_attention, nothing
    sdpa.patch(recorder_in_a_step())
    recorded, F.scaled_dot_product_attention = F.scaled_dot_product_attention, real
    q, k, v = torch.zeros(2, 28, 1, 128), *(torch.zeros(2, 28, 301, 128) for _ in range(2))
    return [
        Door(
            "sdpa, as transformers calls it",
            lambda: recorded(q, k, v, attn_mask=None, dropout_p=0.0, scale=0.1, is_causal=False),
            lambda: nothing(q, k, v, attn_mask=None, dropout_p=0.0, scale=0.1, is_causal=False),
        ),
        Door("sdpa of three tensors", lambda: recorded(q, k, v), lambda: nothing(q, k, v)),
    ]


def flash_attn_doors() -> list[Door]:
    extension: Any = types.SimpleNamespace(
        __name__="flash_attn_2_cuda", **dict.fromkeys(("fwd", "varlen_fwd", "fwd_kvcache"), nothing)
    )
    interface: Any = types.ModuleType(flash_attn.INTERFACES[0])
    interface.flash_attn_gpu = extension
    flash_attn.patch(recorder_in_a_step(), interface)
    q, k = torch.zeros(2, 1, 28, 128), torch.zeros(2, 301, 4, 128)
    ends, lengths = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([301, 40], dtype=torch.int32)
    table, packed = torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2, 28, 128)
    cache = torch.zeros(8, 256, 4, 128)
    last = (0.1, True, -1, -1, 0.0, False, None)
    none = (None,) * 4
    calls = {
        "fwd": (q, k, k, None, None, 0.0, *last),
        "varlen_fwd": (*(packed,) * 3, None, ends, ends, *none, 1, 301, 0.0, 0.1, False, *last[1:]),
        "fwd_kvcache": (q, cache, cache, q, q, lengths, *none, table, None, None, *last[:5], True, 0),
    }
    return [
        Door(
            f"flash_attn {entry}",
            lambda call=getattr(interface.flash_attn_gpu, entry), args=args: call(*args),  # type: ignore[misc]
            lambda args=args: nothing(*args),  # type: ignore[misc]
        )
        for entry, args in calls.items()
    ]


def flash_attn_varlen_func(
    q: Any, k: Any, v: Any, max_seqlen_q: Any, cu_seqlens_q: Any, max_seqlen_k: Any, cu_seqlens_k: Any = None,
    seqused_k: Any = None, q_v: Any = None, dropout_p: float = 0.0, softmax_scale: Any = None,
    causal: bool = False, window_size: Any = None, softcap: float = 0.0, alibi_slopes: Any = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Any = None,
    return_softmax_lse: bool = False, out: Any = None, scheduler_metadata: Any = None, q_descale: Any = None,
    k_descale: Any = None, v_descale: Any = None, num_splits: int = 0, fa_version: int = 2, s_aux: Any = None,
) -> None:  # fmt: skip
    """vLLM's parameters, of vllm 0.33.0."""


def engine_doors() -> list[Door]:
    module: Any = types.ModuleType("vllm.vllm_flash_attn.flash_attn_interface")
    module.flash_attn_varlen_func = plain = flash_attn_varlen_func
    recorder = recorder_in_a_step()
    flash_attn_forks.patch_vllm(recorder, module)
    packed_steps.begin_step(recorder, {"a": Request(0, 1, 40, False), "b": Request(1, 6, 6, True)}, 0)
    q, cache = torch.zeros(7, 28, 128), torch.zeros(8, 16, 4, 128)
    given = {
        "q": q, "k": cache, "v": cache, "out": q, "max_seqlen_q": 6, "max_seqlen_k": 40,
        "cu_seqlens_q": torch.tensor([0, 1, 7], dtype=torch.int32),
        "seqused_k": torch.tensor([40, 6], dtype=torch.int32), "softmax_scale": 0.1, "causal": True,
        "alibi_slopes": None, "window_size": [-1, -1], "block_table": torch.zeros(2, 20, dtype=torch.int32),
        "softcap": 0.0, "scheduler_metadata": None, "fa_version": 3, "q_descale": None, "k_descale": None,
        "v_descale": None, "num_splits": 0, "s_aux": None,
    }  # fmt: skip
    recorded = module.flash_attn_varlen_func
    return [Door("vLLM's 21 named arguments", lambda: recorded(**given), lambda: plain(**given))]


class Block(torch.nn.Module):
    def forward(self, hidden: Any, attention_mask: Any = None, use_cache: bool = False) -> Any:
        return hidden


class WatchedBlock(Block):
    pass


def layer_doors() -> list[Door]:
    watched, block, hidden = WatchedBlock(), Block(), torch.zeros(1, 1, 8)
    layers = Layers(recorder_in_a_step())
    layers.watch(watched, 0)
    return [
        Door(
            "a layer",
            lambda: (watched(hidden, attention_mask=None, use_cache=True), layers),
            lambda: block(hidden, attention_mask=None, use_cache=True),
        )
    ]


def us_per_call(call: Callable[[], Any]) -> float:
    began = time.thread_time_ns()
    for _ in range(CALLS):
        call()
    return (time.thread_time_ns() - began) / CALLS / 1000


def measure(door: Door, rounds: int) -> tuple[float, float]:
    """(median, tenth percentile) of what recording adds to a call, µs."""
    us_per_call(door.recorded)
    added = sorted(us_per_call(door.recorded) - us_per_call(door.plain) for _ in range(rounds))
    return statistics.median(added), added[len(added) // 10]


def generation(layers: int, tokens: int, times: int) -> tuple[float, float, int]:
    """(CPU seconds of one generation, median share that recording adds, attention calls)."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, vocab_size=32_000,
        num_attention_heads=14, num_key_value_heads=2, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    ids = torch.ones(1, 64, dtype=torch.long)

    def seconds() -> float:
        began = time.thread_time()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return time.thread_time() - began

    seconds()
    shares, plain, calls = [], [], 0
    for number in range(times):
        taken = {}
        for recorded in (number % 2 == 0, number % 2 == 1):  # who goes first takes turns
            if recorded:
                files = journal.create()
                assert files is not None
                recorder = Recorder(None, journal.Journal(*files))
                with instrument(recorder):
                    taken[recorded] = seconds()
                calls = recorder.num_calls
                for descriptor in files:
                    os.close(descriptor)
            else:
                taken[recorded] = seconds()
        shares.append(taken[True] / taken[False] - 1)
        plain.append(taken[False])
    return statistics.median(plain), statistics.median(shares), calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--generations", type=int, default=11)
    parser.add_argument("--only", metavar="DOOR", help="print the median seconds of this door alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    doors = [*sdpa_doors(), *flash_attn_doors(), *engine_doors(), *layer_doors()]
    if options.only:
        (door,) = (door for door in doors if door.name == options.only)
        print(measure(door, options.rounds)[0] / 1e6)
        return
    print(f"torch {torch.__version__}; a call of an empty function {us_per_call(nothing):.3f} µs")
    print(f"{'recording adds to':<34}{'median µs':>12}{'tenth percentile':>18}")
    for door in doors:
        median, least = measure(door, options.rounds)
        print(f"{door.name:<34}{median:>12.2f}{least:>18.2f}")
    seconds, share, calls = generation(options.layers, options.tokens, options.generations)
    print(f"a generation of {calls} calls, {options.layers} layers: {seconds:.2f} s, {share:+.1%}")


if __name__ == "__main__":
    main()
