"""Steps and layers told by the kernels between attention calls, and what is found so in bare traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.check.verdicts import Verdict
from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.runs.run import Run
from tests.support.build_trace import TraceBuilder

H100 = gpu_by_name("h100")
CALL = AttentionCall("flash_attn", "fwd", 1, 1, 700, 28, 4, 128, causal=True)
NORM, GEMM, ROPE, SILU = "rms_norm_kernel", "cutlass_gemm_bf16", "rotary_kernel", "silu_kernel"
HEAD, SAMPLE, EMBED = "cutlass_gemm_vocab", "argmax_kernel", "indexSelect_kernel"
LAYERS, STEPS = 4, 7
Kernels = list[str | KernelLaunch]


def attention(keys: int = 700, **more: object) -> list[KernelLaunch]:
    return list(predict(replace(CALL, seqlen_k=keys, **more), H100, "2.8.3").launches)  # type: ignore[arg-type]


def layer(launches: Sequence[str | KernelLaunch]) -> Kernels:
    return [NORM, GEMM, ROPE, *launches, GEMM, NORM, GEMM, SILU, GEMM]


def program(
    changed: dict[tuple[int, int], Sequence[str | KernelLaunch]] | None = None,
    *,
    left_out: tuple[int, int] | None = None,
    kinds: int = 1,
    sampled: bool = False,
    keys: int = 700,
) -> Kernels:
    """Steps of like layers; ``changed`` has what a layer of a step launches for its attention instead.

    ``left_out``: a layer of a step that a program skips.  ``sampled``: each step samples with other kernels.
    """
    ran: Kernels = []
    for step in range(STEPS):
        ran.append(EMBED)
        for number in range(LAYERS):
            if (step, number) == left_out:
                continue
            usual = attention(keys if number % kinds == 0 else 200)
            ran += layer((changed or {}).get((step, number), usual))
            ran += ["router_kernel"] if number % 2 and kinds > 1 else []
        ran += [NORM, HEAD, f"{SAMPLE}_{step}" if sampled else SAMPLE]
    return ran


def found(ran: Kernels, folder: Path, *, streams: int = 1) -> list[str]:
    made = TraceBuilder()
    made.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    for number, kernel in enumerate(ran):
        at = 1_000 * (number + 1)
        launch = KernelLaunch(kernel, (8, 1, 1), (128, 1, 1)) if isinstance(kernel, str) else kernel
        made.call(at, at + 100, number + 1)
        made.kernel(
            launch.kernel, at + 200, at + 700, number + 1, grid=launch.grid, block=launch.block,
            streamId=7 + number % streams,
        )  # fmt: skip
    path = made.write(folder / f"{len(list(folder.iterdir()))}.sqlite")
    run = Run(path.name, folder=None, trace_path=path, config={"kind": "trace"})
    failures = run.check().failures
    assert {call.verdict for call in failures} <= {Verdict.INCONSISTENT}
    return list(dict.fromkeys(call.detail for call in failures))


@pytest.mark.parametrize("kinds", [1, 2])
def test_whole_programs_raise_no_alarm(tmp_path: Path, kinds: int) -> None:
    assert found(program(kinds=kinds), tmp_path) == []
    assert found(program(kinds=kinds)[17:-17], tmp_path) == []  # cut at both edges


@pytest.mark.parametrize("number", range(LAYERS))
def test_a_call_that_is_missing_is_found_in_its_layer(tmp_path: Path, number: int) -> None:
    (told,) = found(program({(3, number): ()}), tmp_path)
    assert f"layer {number} launched no attention in step 2: 3 other layers did" in told
    assert told.endswith("(steps of 4 calls are told by the kernels between them)")


def test_a_call_that_runs_twice_is_found(tmp_path: Path) -> None:
    (told,) = found(program({(3, 1): attention() * 2}), tmp_path)
    assert "layer 1 ran" in told
    assert "every other layer and step has one call" in told


@pytest.mark.parametrize("more", [{"head_dim": 64}, {"batch": 2}, {"softcap": 30.0}])
def test_a_layer_otherwise_in_one_step_is_found(tmp_path: Path, more: dict[str, object]) -> None:
    assert any("layer 2 ran" in told for told in found(program({(3, 2): attention(**more)}), tmp_path))


def test_what_the_kernels_do_not_prove_is_left_alone(tmp_path: Path) -> None:
    assert found(program(left_out=(3, 2)), tmp_path) == []  # the layer's other kernels are missing, too
    assert found(program({(3, 2): ()}, sampled=True), tmp_path) == []  # no step ends like another
    assert found(program({(3, 2): ()}, keys=100), tmp_path, streams=2) == []
    assert found([*attention(), GEMM] * 20, tmp_path) == []
    assert found([*attention(), GEMM] * 9 + [GEMM] + [*attention(), GEMM] * 9, tmp_path) == []
