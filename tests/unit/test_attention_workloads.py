"""The varlen and kvcache workloads, unequal prompts and static caches."""

from __future__ import annotations

import json

import pytest

from attnprof.runs import run_folders
from attnprof.workloads.spec import AttentionOptions, ChildSpec, GenerateOptions, spread_lengths
from tests.support.command import attnprof


def run(*arguments: str) -> str:
    """Records without a profiler in this process's command line; the report."""
    done = attnprof("run", "--capture", "none", "-o", "it", *arguments)
    assert done.code == 0, done.err
    return " ".join(attnprof("report", "it").out.split())


def records() -> list[dict]:
    return [json.loads(line) for line in (run_folders.run_folder("it") / "calls.jsonl").open()]


@pytest.mark.parametrize(
    ("longest", "count", "expected"), [(100, 4, [25, 50, 75, 100]), (5, 3, [2, 4, 5]), (1, 2, [1, 1])]
)
def test_lengths_spread_up_to_the_longest(longest, count, expected):
    assert spread_lengths(longest, count) == expected


def test_varlen_on_a_cpu_calls_sdpa_per_sequence_and_says_so():
    shown = run(
        "--workload", "varlen", "--batch", "3", "--prompt-tokens", "90", "--layers", "2", "--device", "cpu"
    )
    calls = records()
    assert [call["q"] for call in calls] == [[1, 28, n, 128] for n in (30, 60, 90)] * 2
    assert [call["layer"] for call in calls] == [0, 0, 0, 1, 1, 1]
    assert "through scaled_dot_product_attention on its own, not through a varlen kernel" in shown


def test_packed_attention_is_attention_of_each_sequence():
    import torch

    from attnprof.workloads.packed import per_sequence
    from attnprof.workloads.varlen import Packed, cu_seqlens

    torch.manual_seed(0)
    bounds = cu_seqlens(torch.tensor([3, 5]))
    q, k, v = (Packed(torch.randn(8, heads, 16), bounds, 5) for heads in (4, 2, 2))
    found = per_sequence(q, k, v)
    for begin, end in ((0, 3), (3, 8)):
        scores = torch.einsum(
            "qhd,khd->hqk", q.values[begin:end], k.values[begin:end].repeat_interleave(2, 1)
        )
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = (scores / 4).masked_fill(future, float("-inf")).softmax(-1)
        naive = torch.einsum("hqk,khd->qhd", weights, v.values[begin:end].repeat_interleave(2, 1))
        assert torch.allclose(found[begin:end], naive, atol=1e-5)


def test_kvcache_without_a_gpu_ends_in_one_line_and_leaves_no_run():
    done = attnprof("run", "--capture", "none", "-o", "it", "--workload", "kvcache", "--device", "cpu")
    assert done.code == 2
    assert "needs an NVIDIA GPU" in done.err
    assert "attnprof predict --entry fwd_kvcache" in done.err
    assert not run_folders.run_folder("it").exists()


@pytest.mark.gpu
def test_kvcache_appends_a_token_per_step_to_pages():
    pytest.importorskip("flash_attn")
    run("--workload", "kvcache", "--page-size", "256", "--num-splits", "3", "--max-new-tokens", "4")
    calls = records()
    assert len(calls) == 4
    assert {call["num_splits"] for call in calls} == {3}
    assert all(call["k_new"] and call["block_table"] for call in calls)


def test_masks_of_left_padding_are_reported_as_not_modelled():
    shown = run(
        "--batch", "3", "--prompt-tokens", "30", "--left-padding", "--max-new-tokens", "3", "--device", "cpu"
    )
    assert all(call["mask"] for call in records())
    assert "30-token prompt (unequal: 10 to 30)" in shown
    assert "not modelled: an attention mask was passed, which flash kernels do not take (6 calls)" in shown
    assert "would run" not in shown


def test_a_static_cache_is_attended_at_its_final_length():
    shown = run("--static-cache", "--max-new-tokens", "4", "--device", "cpu")
    decode = [call for call in records() if call["phase"] == "decode"]
    assert len({call["k"][2] for call in decode}) == 1
    assert all(call["mask"] for call in decode)
    assert "static cache" in shown
    assert "not modelled: an attention mask was passed" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "nothing"), "--workload nothing is none of generate, kvcache, varlen"),
        (("--workload", "varlen", "--num-splits", "2"), "--num-splits means nothing to --workload varlen"),
        (("--workload", "kvcache", "--prompt", "x"), "--prompt means nothing to --workload kvcache"),
        (("--page-size", "256"), "--page-size means nothing to --workload generate"),
        (("--workload", "kvcache", "--page-size", "16"), "--page-size must be a multiple of 256, not 16"),
        (("--workload", "kvcache", "--num-splits", "129"), "--num-splits must be 0"),
        (("--workload", "varlen", "--batch", "0"), "--batch must be at least 1, not 0"),
        (("--workload", "varlen", "--model", "a/b"), "takes its heads from a preset, and a/b is none"),
        (("--workload", "varlen", "--device", "tpu"), "--device tpu is none of auto, cpu, cuda"),
        (("--left-padding",), "--left-padding needs prompts of unequal lengths"),
        (("--workload", "varlen", "--", "true"), "--workload is an option of the built-in workload"),
    ],
)
def test_options_that_do_not_fit_the_workload_are_refused(arguments, message):
    done = attnprof("run", *arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    "options",
    [
        {"attention": AttentionOptions("kvcache", page_size=256, num_splits=3)},
        {"attention": AttentionOptions("varlen", batch=2, seed=1)},
        {"generate": GenerateOptions(batch=2, left_padding=True, static_cache=True)},
    ],
)
def test_the_child_is_told_all_of_it(options):
    spec = ChildSpec("folder", "none", **options)
    assert ChildSpec.from_json(spec.to_json()) == spec
