"""Each rule about a call's neighbours: what breaks it is found by it, and what only looks so is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.check.verdicts import Verdict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Entry, Gpu, KernelLaunch
from tests.spoil.scenes import Launches, Scene, SceneCall, launches_of
from tests.spoil.traces import run_of

H100 = gpu_by_name("h100")
CALL = AttentionCall("flash_attn", "fwd", 1, 1, 1, 28, 4, 128, causal=True)
FA3 = AttentionCall("flash_attn_3", "fwd_kvcache", 2, 1, 4096, 28, 4, 128, causal=True, cache_seqlens=True)
STEPS, LAYERS = 8, 4
Of = Callable[[int, int], AttentionCall | None]


def scene(
    of: Of,
    *,
    version: str = "2.8.3",
    layers: int = LAYERS,
    steps: int = STEPS,
    marks: str = "own",
    gpu: Gpu = H100,
) -> Scene:
    """A prefill and decode steps; ``of`` gives the call of (step, layer), None where there is none."""
    calls = []
    for step in range(steps):
        for layer in range(layers):
            call = of(step, layer)
            launches: Launches = () if call is None else launches_of(call, gpu, version)
            assert call is None or launches
            calls.append(SceneCall(0, step, "decode" if step else "prefill", layer, call or CALL, launches))
    library = calls[0].call.library
    return Scene(library, version, gpu, "generation", (0,) * layers, marks, "nsys", "none", tuple(calls))


def plain(step: int, prompt: int = 500) -> AttentionCall:
    return replace(CALL, seqlen_q=1 if step else prompt, seqlen_k=prompt + step)


def with_cells(whole: Scene, changed: dict[tuple[int, int], Launches]) -> Scene:
    return whole.with_launches(
        {
            at: changed[one.step, one.layer]
            for at, one in enumerate(whole.calls)
            if (one.step, one.layer) in changed
        }
    )


def without(whole: Scene, cells: Iterable[tuple[int, int]]) -> Scene:
    """The scene without these steps' layers: none of their kernels ran, as in a shorter model."""
    return replace(whole, calls=tuple(one for one in whole.calls if (one.step, one.layer) not in set(cells)))


def cell(whole: Scene, step: int, layer: int) -> Launches:
    return next(one.launches for one in whole.calls if (one.step, one.layer) == (step, layer))


def findings(whole: Scene, folder: Path) -> list[tuple[int | None, int | None, str]]:
    failures = run_of(whole, folder).check().failures
    return [(call.step, call.layer, call.detail) for call in failures if call.verdict is Verdict.INCONSISTENT]


def only(found: Iterable[tuple[int | None, int | None, str]], step: int, layer: int, says: str) -> None:
    assert [one[:2] for one in found] == [(step, layer)]
    assert says in next(iter(found))[2]


UNIFORM = scene(lambda step, layer: plain(step))
HOPPER = scene(
    lambda step, layer: replace(FA3, seqlen_q=1 if step else 300, seqlen_knew=None), version="3.0.0"
)


def test_neat_traces_are_consistent(tmp_path: Path) -> None:
    assert findings(UNIFORM, tmp_path / "a") == []
    assert findings(HOPPER, tmp_path / "b") == []


# one version of one library


def test_another_version_in_one_call_is_found_and_in_no_other_process_than_its_own(tmp_path: Path) -> None:
    older = launches_of(plain(3), H100, "2.6.3")
    assert older != cell(UNIFORM, 3, 1)
    found = findings(with_cells(UNIFORM, {(3, 1): older}), tmp_path / "a")
    only(found, 3, 1, "31 other calls of the process ran flash_attn")
    other = scene(lambda step, layer: plain(step), version="2.6.3").calls
    assert findings(replace(UNIFORM, others=(other,)), tmp_path / "b") == []


# a kernel's own SMs


def test_a_margin_of_one_call_is_found_and_one_that_several_ask_for_is_not(tmp_path: Path) -> None:
    free = launches_of(replace(HOPPER.calls[-1].call, sm_margin=8), H100, "3.0.0")
    only(findings(with_cells(HOPPER, {(3, 1): free}), tmp_path / "a"), 3, 1, "8 SMs left free")
    overlapped = with_cells(HOPPER, {(step, 1): free for step in range(1, STEPS)})
    assert findings(overlapped, tmp_path / "b") == []


# one step


def test_another_data_type_in_one_layer_is_found_and_in_a_whole_step_is_not(tmp_path: Path) -> None:
    half = launches_of(replace(plain(3), dtype="fp16"), H100, "2.8.3")
    only(findings(with_cells(UNIFORM, {(3, 1): half}), tmp_path / "a"), 3, 1, "in fp16, 3 other layers")
    two = scene(lambda step, layer: plain(step) if step < 4 else replace(plain(step), dtype="fp16"))
    assert findings(two, tmp_path / "b") == []  # two models, one after the other


def test_a_layer_of_other_elements_is_found_where_the_class_alone_names_them(tmp_path: Path) -> None:
    b200 = gpu_by_name("b200")
    step = AttentionCall("tokenspeed_mla", "fwd_kvcache", 2, 1, 4096, 64, 1, 576, dtype="fp8", head_dim_v=512)
    fp8, half = (launches_of(replace(step, dtype=one), b200, "2.0.3") for one in ("fp8", "bf16"))
    whole = replace(UNIFORM, library=step.library, version="2.0.3", gpu=b200)
    whole = whole.with_launches(dict.fromkeys(range(len(whole.calls)), fp8))
    assert findings(whole, tmp_path / "whole") == []
    other = with_cells(whole, {(number, 2): half for number in range(STEPS)})
    found = findings(other, tmp_path / "other")
    assert [(number, layer) for number, layer, _ in found] == [(number, 2) for number in range(STEPS)]
    assert all("layer 2 ran in 16-bit, 3 other layers of the step in fp8" in said for *_, said in found)


def test_prompts_of_one_layer_with_other_blocks_are_found_though_others_have_their_name(
    tmp_path: Path,
) -> None:
    mi300x = gpu_by_name("mi300x")
    decode = AttentionCall("vllm_rocm", "batch_paged", 2, 1, 900, 64, 8, 256, page_block_size=16, causal=True)
    lengths = {"seqlens_q": (347, 1), "seqlens_k": (347, 900)}
    mixed = replace(decode, seqlen_q=347, **lengths)  # type: ignore[arg-type]
    whole = scene(lambda step, _: mixed if step == 4 else decode, version="0.33.0", layers=3, gpu=mi300x)
    whole = replace(whole, format="torch", marks="foreign")
    assert findings(whole, tmp_path / "whole") == []
    prompts, *others = cell(whole, 4, 0)
    assert (prompts.kernel, prompts.grid) == ("_fwd_kernel", (2, 64, 3))
    fewer = (replace(prompts, grid=(2, 64, 1)), *others)
    found = findings(with_cells(whole, {(4, 0): fewer}), tmp_path / "fewer")
    assert {(step, layer) for step, layer, _ in found} == {(4, 0)}


def test_paged_decodes_reduce_kernel_behind_prompts_is_of_no_call(tmp_path: Path) -> None:
    decode = AttentionCall("vllm_rocm", "batch_paged", 2, 1, 900, 32, 8, 64, page_block_size=16, causal=True)
    whole = scene(lambda *_: decode, version="0.33.0", layers=2, gpu=gpu_by_name("mi300x"))
    whole = replace(whole, format="torch", marks="none")
    prompts = KernelLaunch("_fwd_kernel", (2, 32, 3), (256, 1, 1))
    before = (prompts, *cell(whole, 3, 0))
    assert not run_of(with_cells(whole, {(3, 0): before}), tmp_path / "before").check().failures
    lost = run_of(with_cells(whole, {(3, 0): (prompts, cell(whole, 3, 0)[1])}), tmp_path / "lost")
    assert ["kernel before its reduce kernel" in one.detail for one in lost.check().failures] == [True]


def test_another_library_in_one_layer_is_found_and_in_every_other_one_is_not(tmp_path: Path) -> None:
    torch = AttentionCall("torch", "fwd", 1, 1, 503, 28, 28, 128)
    other = launches_of(torch, H100, "2.13.0")
    only(findings(with_cells(UNIFORM, {(3, 1): other}), tmp_path / "a"), 3, 1, "with pytorch-bundled-flash")
    turns = {
        (step, layer): launches_of(
            replace(torch, seqlen_q=1 if step else 500, seqlen_k=500 + step, causal=not step), H100, "2.13.0"
        )
        for step in range(STEPS)
        for layer in (1, 3)
    }
    assert findings(with_cells(UNIFORM, turns), tmp_path / "b") == []


# no layer missing, none twice


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_layer_without_attention_in_one_step_is_found(layer: int, tmp_path: Path) -> None:
    (one,) = findings(with_cells(UNIFORM, {(3, layer): ()}), tmp_path)
    assert f"layer {layer} launched no attention in step 3: 3 other layers did" in one[2]


def test_a_layer_lost_within_a_generation_is_found_and_a_shorter_model_is_not(tmp_path: Path) -> None:
    kinds = scene(
        lambda step, layer: replace(plain(step), num_heads=28 * (1 + layer), num_heads_k=4 * (1 + layer))
    )
    lost = {(step, 3): () for step in range(4, STEPS)}
    assert (
        "layer 3 launched no attention in step 4" in findings(with_cells(kinds, lost), tmp_path / "a")[0][2]
    )
    calls = tuple(
        replace(one, phase="prefill") if one.step == 4 else one for one in without(kinds, lost).calls
    )
    assert findings(replace(kinds, calls=calls), tmp_path / "b") == []  # its prompt begins with step 4


def test_a_shorter_model_after_a_longer_one_or_in_turns_with_it_misses_no_layer(tmp_path: Path) -> None:
    short = [(step, layer) for step in range(4, STEPS) for layer in (2, 3)]
    calls = tuple(
        replace(one, phase="prefill") if one.step == 4 else one for one in without(UNIFORM, short).calls
    )
    assert findings(replace(UNIFORM, calls=calls), tmp_path / "a") == []
    drafts = [(step, layer) for step in (1, 2, 4, 5) for layer in (2, 3)]
    assert findings(without(UNIFORM, drafts), tmp_path / "b") == []


def test_layers_without_attention_throughout_are_left_alone(tmp_path: Path) -> None:
    hybrid = scene(lambda step, layer: plain(step) if layer % 2 else None)
    assert findings(hybrid, tmp_path / "a") == []
    edge = [(STEPS - 1, 2), (STEPS - 1, 3)]
    ends = without(UNIFORM, edge)
    assert findings(ends, tmp_path / "b") == []  # the trace ends inside its last step
    goes_on = with_cells(UNIFORM, dict.fromkeys(edge, ()))
    (one,) = findings(goes_on, tmp_path / "c")
    assert f"step {STEPS - 1} ran 2 attention calls: beside the same other kernels, 7 others ran 4" in one[2]


def test_a_call_launched_twice_is_found_and_where_each_layer_makes_two_is_not(tmp_path: Path) -> None:
    twice = cell(UNIFORM, 3, 1) * 2
    found = findings(with_cells(UNIFORM, {(3, 1): twice}), tmp_path / "a")
    assert {one[:2] for one in found} == {(3, 1)}
    assert "every other layer and step has one call" in found[0][2]
    crossed = {
        (step, layer): cell(UNIFORM, step, layer) * 2 for step in range(STEPS) for layer in range(LAYERS)
    }
    assert findings(with_cells(UNIFORM, crossed), tmp_path / "b") == []


# layers alike


def test_a_layer_unlike_its_like_in_one_step_is_found(tmp_path: Path) -> None:
    longer = launches_of(replace(plain(3), seqlen_k=3000), H100, "2.8.3")
    only(findings(with_cells(UNIFORM, {(3, 1): longer}), tmp_path), 3, 1, "the two launch the same in")


def test_layers_of_two_kinds_and_a_window_that_begins_to_hide_keys_are_left_alone(tmp_path: Path) -> None:
    for window in (502, 505, 506):
        mixed = scene(
            lambda step, layer, w=window: replace(plain(step), window=(w, w) if layer % 2 else (-1, -1))
        )
        kinds = {cell(mixed, step, 1) == cell(mixed, step, 0) for step in range(1, STEPS)}
        assert kinds == {True, False}
        assert findings(mixed, tmp_path / str(window)) == []


def test_a_window_that_hides_keys_in_one_step_alone_is_found(tmp_path: Path) -> None:
    windowed = launches_of(replace(plain(3), window=(64, 64)), H100, "2.8.3")
    alone = scene(lambda step, layer: plain(step), layers=1)
    assert (
        "in the steps before and after"
        in findings(with_cells(alone, {(3, 0): windowed}), tmp_path / "a")[0][2]
    )
    among = scene(lambda step, layer: replace(plain(step), window=(64, 64) if layer % 2 else (-1, -1)))
    open_once = with_cells(among, {(3, 1): cell(among, 3, 0)})
    (one,) = findings(open_once, tmp_path / "b")
    assert one[0] == 3
    assert "layer 1 " in one[2]


def test_one_layer_of_a_persistent_kernel_unlike_the_others_is_found(tmp_path: Path) -> None:
    call = HOPPER.calls[-1].call
    for number, other in enumerate((replace(call, batch=40), replace(call, scheduler_metadata=True))):
        launches = launches_of(other, H100, "3.0.0")
        found = findings(with_cells(HOPPER, {(3, 1): launches}), tmp_path / str(number))
        only(found, 3, 1, "the two launch the same in")
    serving = scene(
        lambda step, layer: replace(
            FA3, seqlen_q=1 if step else 300, num_heads_k=4, num_heads=28 if layer % 2 else 4
        ),
        version="3.0.0",
    )
    assert findings(serving, tmp_path / "c") == []


# a layer in all steps


def test_a_head_dim_that_changes_for_a_step_is_found_and_another_model_is_not(tmp_path: Path) -> None:
    kinds = [64, 96, 128, 256]
    mixed = scene(lambda step, layer: replace(plain(step), head_dim=kinds[layer]))
    assert findings(mixed, tmp_path / "a") == []
    wide = launches_of(replace(plain(3), head_dim=120), H100, "2.8.3")  # of the same bucket, not a whole one
    only(findings(with_cells(mixed, {(3, 2): wide}), tmp_path / "b"), 3, 2, "Is_even_K False, not True")


# sizes


def test_queries_and_batches_of_one_step_go_together(tmp_path: Path) -> None:
    kinds = scene(
        lambda step, layer: replace(plain(step), window=(64, 64) if layer == 1 else (-1, -1)), layers=3
    )
    assert findings(kinds, tmp_path / "a") == []
    for number, other in enumerate(({"seqlen_q": 300}, {"batch": 3})):
        call = replace(plain(3), window=(64, 64), **other)  # type: ignore[arg-type]
        odd = with_cells(kinds, {(3, 1): launches_of(call, H100, "2.8.3")})
        found = findings(odd, tmp_path / str(number))
        only(found, 3, 1, "their batch, heads and queries go together otherwise")


# replays of a graph


def replayed(**changed: Launches) -> Scene:
    """Decode steps that replay one graph, some calls of which (``at_step_layer``) were launched otherwise."""
    call = replace(CALL, entry="fwd_kvcache", seqlen_k=1024, seqlen_knew=1, cache_seqlens=True)
    whole = scene(lambda step, layer: call if step else plain(0))
    cells = {tuple(map(int, name.split("_")[1:])): launches for name, launches in changed.items()}
    return replace(with_cells(whole, cells), graphs="nodes")  # type: ignore[arg-type]


def test_a_replay_of_more_or_fewer_calls_is_found_and_the_last_may_be_cut(tmp_path: Path) -> None:
    once = cell(replayed(), 3, 1)
    assert findings(replayed(), tmp_path / "a") == []
    (more,) = findings(replayed(at_3_1=once * 2), tmp_path / "b")
    assert "replay ran 5 attention calls: 6 others ran 4" in more[2]
    (fewer,) = findings(replayed(at_3_1=()), tmp_path / "c")
    assert "replay ran 3 attention calls: 6 others ran 4" in fewer[2]
    assert findings(without(replayed(), [(7, 3)]), tmp_path / "d") == []
    (last,) = findings(replayed(at_7_3=()), tmp_path / "e")
    assert "replay ran 3 attention calls" in last[2]  # and all that others ran beside them


def test_fewer_calls_for_good_within_a_generation_are_found_and_of_a_shorter_model_not(
    tmp_path: Path,
) -> None:
    lost = replayed(**{f"at_{step}_3": () for step in range(4, STEPS)})
    (one,) = findings(lost, tmp_path / "a")
    assert (one[0], "ran 3 attention calls: 3 others ran 4" in one[2]) == (4, True)
    short = replace(
        lost,
        calls=tuple(
            replace(call, phase="prefill") if call.step == 4 else call
            for call in without(lost, [(step, 3) for step in range(4, STEPS)]).calls
        ),
    )
    assert findings(short, tmp_path / "b") == []


# splits that a graph froze


def frozen(entry: Entry, heads_k: int, folder: Path) -> set[tuple[int | None, str]]:
    """Layer and verdict of what fails where layer 1, of a window, replays the one split of 60 keys."""
    base = AttentionCall("flash_attn", entry, 8, 1, 1, 4, heads_k, 256, causal=True)

    def of(step: int, layer: int) -> AttentionCall:
        queries, keys = (1, 68 + step) if step else (68, 68)
        window = (200, 200) if layer == 1 else (-1, -1)
        total = 8 * queries if entry == "varlen_fwd" else None
        return replace(base, seqlen_q=queries, seqlen_k=keys, total_q=total, window=window)

    whole = scene(of, version="2.7.4.post1", layers=3)
    short = launches_of(replace(of(1, 1), seqlen_k=60), H100, "2.7.4.post1")
    whole = with_cells(whole, {(step, 1): short for step in range(1, STEPS)})
    assert {len(cell(whole, step, layer)) for step in range(1, STEPS) for layer in (0, 2)} == {2}  # split
    failures = run_of(replace(whole, graphs="nodes"), folder).check().failures
    return {(call.layer, call.verdict.value) for call in failures}


def test_a_split_of_folded_calls_tells_nothing_of_an_entry_that_splits_no_others(tmp_path: Path) -> None:
    assert frozen("varlen_fwd", 1, tmp_path / "a") == set()
    assert frozen("fwd", 4, tmp_path / "b") == {(1, "frozen")}  # nothing is folded: the entry asks
    assert frozen("fwd", 1, tmp_path / "c") == {(1, "frozen")}  # its prefill, unfolded, is split
