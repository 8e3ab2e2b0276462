"""trtllm-gen's kernels and grids against those that FlashInfer's host code chooses over its own table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.flashinfer.rules import rules_for
from attnprof.dispatch.flashinfer.trtllm_gen import stated
from attnprof.dispatch.flashinfer.trtllm_gen_ask import Ask, MissingKernelError
from attnprof.dispatch.flashinfer.trtllm_gen_kernels import DTYPES, Kind, Mode, Sparse, Traits, exists
from attnprof.dispatch.flashinfer.trtllm_gen_select import Selected, keys_to_share, select
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

VERSIONS = ("0.6.8.post1", "0.6.13", "0.7.2", "0.7.2.post1", "0.7.4")
CRASHED = "the program ended"  # 0.6.8 reads a kernel's row before it asks whether there is one
_TILES = {Kind.CONTEXT: (64, 128), Kind.SWAPS: (8, 16, 32, 64), Kind.KEEPS: (32, 64, 128)}
_DIMS = ((64, 64), (80, 80), (128, 128), (256, 256), (512, 512), (576, 512), (320, 256), (192, 128), (96, 96))


def _ask(call: dict[str, Any]) -> Ask:
    gpu = gpu_by_name(call["device"])
    window = None if call["window_left"] < 0 else call["window_left"] + 1
    sizes = (call[name] for name in ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k"))
    dims, rules = (call["head_dim"], call["head_dim_v"], call.get("page_size", 0)), rules_for(call["version"])
    kept = call.get("kv_dtype")
    return Ask(
        f"{call['dtype']}/{kept}" if kept else call["dtype"],
        call["entry"] in ("batch_paged", "varlen_fwd"), *sizes, *dims, window, call["causal"],
        gpu.num_sms, gpu.sm_minor == 3, call["active_clusters"], rules.newer, rules.oldest,
        call["entry"] == "varlen_fwd", call.get("index_topk", 0), rules.clamps, rules.window_first,
    )  # fmt: skip


def _selected(call: dict[str, Any]) -> Selected | str:
    try:
        return select(_ask(call))
    except MissingKernelError as error:
        return str(error)


def _short(kernel: str) -> str:
    return kernel.rpartition("::")[2]


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        *((version, "trtllm_gen") for version in VERSIONS),
        *(
            (one, kind)
            for one in ("0.6.13", "0.7.2.post1")
            for kind in ("trtllm_gen_mla", "trtllm_gen_mixed")
        ),
    ],
)
def test_every_kernel_and_grid_is_the_one_that_the_host_code_chooses(version: str, kind: str) -> None:
    rows = golden_rows(f"flashinfer_{kind}_{version}.jsonl.gz")
    assert len(rows) > {"trtllm_gen": 2000, "trtllm_gen_mla": 1000}.get(kind, 300)
    wrong = []
    for row in rows:
        found = _selected(row["call"])
        told = row["expect"]["error"] or [
            (each["kernel"], each["grid"], each["block"]) for each in row["expect"]["launches"]
        ]
        ours = (
            found
            if isinstance(found, str)
            else [(_short(each.kernel), list(each.grid), list(each.block)) for each in found.launches]
        )
        if told == CRASHED and isinstance(found, str):
            continue
        clusters = row["expect"]["launches"][0]["cluster"] if row["expect"]["launches"] else None
        if ours != told or (isinstance(found, Selected) and found.grid.cluster != clusters):
            wrong.append((row["call"], told, ours))
    assert wrong == []


@pytest.mark.parametrize("kind", ["trtllm_gen", "trtllm_gen_mla", "trtllm_gen_mixed"])
def test_keys_that_are_not_shared_out_are_few_or_the_sms_are_taken(kind: str) -> None:
    """The two reasons that ``explain`` gives; no third one holds of any recorded call."""
    few, taken = 0, 0
    for row in golden_rows(f"flashinfer_{kind}_0.7.2.post1.jsonl.gz"):
        ask, found = _ask(row["call"]), _selected(row["call"])
        if isinstance(found, str) or ask.context or found.traits.mode is not Mode.NONE:
            continue
        if keys_to_share(ask, found.traits) <= 2 * found.traits.step_kv:
            few += 1
        else:
            assert 2 * found.grid.blocks > ask.num_sms, row["call"]
            taken += 1
    assert few > 0
    assert taken > 0


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_there_are_just_the_kernels_of_the_table(version: str) -> None:
    path = GOLDEN / f"trtllm_gen_kernels_{version}.csv.gz"
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    told = {
        str(name): (int(step_q), int(step_kv), int(threads), bool(groups))
        for name, step_q, step_kv, threads, groups in table.tolist()
    }
    ours = {}
    for traits in (*_traits(), *_without_pages()):
        if exists(traits, oldest=version == VERSIONS[0]):
            sizes = (traits.step_q, traits.step_kv, traits.threads, traits.groups_tokens)
            ours |= {traits.name(sm103): sizes for sm103 in (False, True)}
    assert ours == told


def _traits() -> list[Traits]:
    found = []
    for dtype in DTYPES:
        for dim, dim_v in _DIMS if "/" not in dtype else ((64, 64), (80, 80), *_DIMS[2:5], (192, 128)):
            for per in {dim_v, 128, 256, 512}:
                for kind in Kind:
                    for mode in Mode:
                        found += [
                            Traits(
                                dtype, dim, dim_v, per, kind, mode, mask, page, page == 128, persistent,
                                tile_q, tile_kv, two_cta,
                            )
                            for mask in (0, 1, 2)
                            for page in (8, 16, 32, 64, 128)
                            for persistent in (False, True)
                            for tile_q in _TILES[kind]
                            for tile_kv in (64, 128)
                            for two_cta in (False, True)
                            if kind is Kind.KEEPS or not two_cta
                        ]  # fmt: skip
    return found


def _without_pages() -> list[Traits]:
    """Of Q, K and V of their own, and over keys that are picked."""
    forms = [(True, Sparse.NO, 0), (False, Sparse.STATIC, 1), (False, Sparse.DYNAMIC, 1)]
    shapes = [
        (dtype, *dims, per, kind, mode)
        for dtype in ("bf16", "fp16", "fp8", "fp8/nvfp4")
        for dims in ((128, 128), (192, 128), (256, 256), (576, 512), (512, 512), (96, 96))
        for per in {dims[1], 128, 256, 512}
        for kind in Kind
        for mode in Mode
    ]
    return [
        Traits(*shape, mask, page, False, persistent, tile_q, tile_kv, two_cta, separate, sparse)
        for shape in shapes
        for separate, sparse, page in forms
        for mask in (0, 1, 2)
        for persistent in (False, True)
        for tile_q in _TILES[shape[4]]
        for tile_kv in (64, 128)
        for two_cta in (False, True)
    ]


@pytest.mark.parametrize("kind", ["trtllm_gen", "trtllm_gen_mla", "trtllm_gen_mixed"])
def test_the_name_states_what_was_chosen(kind: str) -> None:
    for row in golden_rows(f"flashinfer_{kind}_0.7.2.post1.jsonl.gz")[:200]:
        fields = dict(stated(row["expect"]["launches"][0]["kernel"]))
        found = _selected(row["call"])
        assert isinstance(found, Selected)
        traits = found.traits
        assert (fields["block_m"], fields["block_n"]) == (traits.tile_q, traits.tile_kv)
        assert (fields["head_dim"], fields["head_dim_v"]) == (traits.head_dim, traits.head_dim_v)
        assert fields["scheduler"] == ("persistent" if traits.persistent else "static")
        assert (fields["multi_cta"] == "no") == (traits.mode is Mode.NONE)


def test_what_the_gpu_alone_knows_is_said() -> None:
    call = AttentionCall(
        "flashinfer", "batch_decode", 1, 1, 4096, 32, 8, 128, page_block_size=16, causal=True,
        backend="trtllm-gen",
    )  # fmt: skip
    prediction = libraries.predict(call, gpu_by_name("b200"))
    merge = next(reason for reason in prediction.reasons if reason.rule == "merge")
    assert "MultiCtasKvCga" in prediction.launches[0].kernel
    assert "where the GPU does not hold all clusters at once" in merge.why
    assert "MultiCtasKvVarSeq" in merge.why


def test_it_is_explained_from_the_command_line() -> None:
    sizes = ("--batch", "64", "--seqlen-k", "4096", "--num-heads", "32", "--num-heads-k", "8")
    flags = ("--library", "flashinfer", "--gpu", "b200", "--entry", "batch_decode", *sizes)
    done = attnprof("explain", *flags, "--backend", "trtllm-gen", "--page-block-size", "16")
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert "the caller asks for it" in told
    assert "512 thread blocks on 148 SMs leave no SM for a second block of each" in told
    few = attnprof(
        "explain", *flags, "--backend", "trtllm-gen", "--page-block-size", "16", "--seqlen-k", "40"
    )
    assert "a sequence has 40 keys, and one thread block takes up to 512" in " ".join(few.out.split())


def test_other_gpus_are_refused() -> None:
    call = AttentionCall(
        "flashinfer", "batch_decode", 1, 1, 4096, 32, 8, 128, page_block_size=16, backend="trtllm-gen"
    )
    assert libraries.predict(call, gpu_by_name("h100")).error == "Unsupported architecture"
