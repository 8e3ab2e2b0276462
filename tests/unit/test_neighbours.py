"""What a call's neighbours say: keys that grow with each step, and steps without attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.check.verdicts import Verdict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.runs.run import Run
from tests.spoil.scenes import Launches, Scene, SceneCall, launches_of
from tests.spoil.traces import run_of

H100 = gpu_by_name("h100")
CALL = AttentionCall("flash_attn", "fwd", 1, 1, 1, 28, 4, 128, causal=True)
Grow = Callable[[int], AttentionCall]


def scene(
    prompt: int, steps: int, *, layers: int = 2, of: Grow | None = None, marks: str = "own", **more: object
) -> Scene:
    """A prefill and decode steps whose keys grow by one; ``of`` gives the call of a decode step otherwise."""
    call = replace(CALL, **more)  # type: ignore[arg-type]
    each = [("prefill", replace(call, seqlen_q=prompt, seqlen_k=prompt))]
    each += [
        ("decode", of(step) if of else replace(call, seqlen_k=prompt + step)) for step in range(1, steps + 1)
    ]
    calls = tuple(
        SceneCall(0, step, phase, layer, one, launches_of(one, H100, "2.8.3"))
        for step, (phase, one) in enumerate(each)
        for layer in range(layers)
    )
    return Scene("flash_attn", "2.8.3", H100, "generation", (0,) * layers, marks, "nsys", "none", calls)


def with_step(whole: Scene, changed: dict[int, Launches]) -> Scene:
    """The scene with other launches in all layers of some steps."""
    return whole.with_launches(
        {at: changed[one.step] for at, one in enumerate(whole.calls) if one.step in changed}
    )


def launched(whole: Scene, step: int) -> Launches:
    return next(one.launches for one in whole.calls if one.step == step)


def found(run: Run) -> list[tuple[int | None, str]]:
    return [(call.step, call.detail) for call in run.check().failures if call.verdict is Verdict.INCONSISTENT]


def splits(keys: int) -> int:
    return launches_of(replace(CALL, seqlen_k=keys), H100, "2.8.3")[0].grid[1]


def test_keys_that_grow_raise_no_alarm_and_a_step_of_other_keys_is_found(tmp_path: Path) -> None:
    whole = scene(500, 40)
    assert launched(whole, 5) != launched(whole, 30)  # 504 and 530 keys: another block of 128
    assert found(run_of(whole, tmp_path)) == []
    frozen = with_step(whole, {30: launched(whole, 5)})
    findings = found(run_of(frozen, tmp_path))
    assert [step for step, _ in findings] == [30, 30]
    assert "4 splits between" in findings[0][1]
    assert "5 splits: no keys" in findings[0][1]
    exchanged = with_step(whole, {30: launched(whole, 5), 5: launched(whole, 30)})
    assert {step for step, _ in found(run_of(exchanged, tmp_path))} == {5, 30}


def test_one_layer_alone_is_held_to_its_own_steps(tmp_path: Path) -> None:
    whole = scene(500, 40, layers=1)
    frozen = with_step(whole, {30: launched(whole, 5)})
    assert found(run_of(whole, tmp_path)) == []
    assert {step for step, _ in found(run_of(frozen, tmp_path))} == {30}


def keys(step: int, jumps: dict[int, int]) -> int:
    return max(length for since, length in jumps.items() if since <= step)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (lambda step: replace(CALL, seqlen_k=min(500 + step, 513)), "a window keeps its length"),
        (lambda step: replace(CALL, seqlen_k=keys(step, {0: 512, 20: 640})), "a capacity of pages"),
        (lambda step: replace(CALL, seqlen_k=500 + step if step < 20 else 300 + step), "a cache cut short"),
        (lambda step: replace(CALL, seqlen_k=500 + step, batch=1 + step // 20), "requests come and go"),
        (lambda step: replace(CALL, seqlen_q=4, seqlen_k=500 + 2 * step), "candidates, half of them kept"),
        (lambda step: replace(CALL, seqlen_k=500 + step, batch=4), "beams"),
        (lambda step: replace(CALL, seqlen_k=500 if step < 40 else 9000), "the last step: an edge"),
        (lambda step: replace(CALL, seqlen_k=(1000, 300, 2000, 700)[step % 4]), "any step may follow any"),
    ],
)  # fmt: skip
def test_what_a_whole_program_may_do_is_left_alone(of: Grow, why: str, tmp_path: Path) -> None:
    whole = scene(500, 40, of=of)
    assert len({one.launches for one in whole.calls}) > 2, why
    assert found(run_of(whole, tmp_path)) == [], why


def test_a_step_without_any_attention_is_found_between_steps_with_it(tmp_path: Path) -> None:
    whole = scene(500, 10)
    bare = with_step(whole, {4: ()})
    (finding,) = found(run_of(bare, tmp_path))
    assert finding[1].startswith("step 4 ran its other kernels, but no attention: step 5 has 2 calls")
    assert found(run_of(with_step(whole, {10: ()}), tmp_path)) == []  # the trace may end inside it
