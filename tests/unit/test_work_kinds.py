"""What GPU time went to: by ranges of modules, by names, by place between attention calls; and by nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof import load
from attnprof.analysis.phases import phase_totals
from attnprof.analysis.work_kinds import (
    EVIDENCE,
    MATRIX,
    PROJECTIONS,
    UNTOLD,
    WORK_KINDS,
    kernel_work,
    named_kind,
    work_totals,
)
from attnprof.model import MODULE_KINDS
from attnprof.report.work import work_sentences, work_table
from attnprof.trace.merge_traces import merged
from attnprof.trace.module_names import kind_of_class, kind_of_range
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.saved_trace import load_trace, save_trace
from attnprof.trace.timeline import Timeline, build_timeline
from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder
from tests.support.graph_trace import GraphTrace

TRACES = TESTS / "data" / "traces"
QWEN = TRACES / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
NAMED = (QWEN, TRACES / "torch_h100_bert-small_pytorch_flash.json.gz",
         TRACES / "torch_b200_vllm_eager_trtllmgen_fmha.json.gz")  # fmt: skip
FLASH = "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, 64, 4>>(Flash_fwd_params)"
GEMM, NORM, RESIDUAL = "ampere_bf16_s16816gemm", "rms_norm_kernel", "vectorized_elementwise_kernel<add>"
ACT = "void vllm::act_and_mul_kernel<c10::BFloat16>"
ARGMAX = "void at::native::reduce_kernel<512, 1, ArgMaxOps<float>>"
LAYER = (NORM, GEMM, "rotary_embedding_kernel", FLASH, GEMM, NORM, GEMM, ACT, GEMM)  # in a model's order


class Model(TraceBuilder):
    """Kernels one after another, each with a launch, and ranges of attnprof's own domain around them."""

    def __init__(self) -> None:
        super().__init__()
        self.domain("attnprof", 1)
        self.at, self.correlation = 0, 0

    def kernels(self, *names: str, took: int = 50) -> None:
        for name in names:
            self.correlation += 1
            self.call(self.at, self.at + 10, self.correlation)
            self.kernel(name, self.at + 10, self.at + 10 + took, self.correlation)
            self.at += 100

    def own(self, name: str, payload: int, *kernels: str) -> None:
        begin = self.at
        self.kernels(*kernels)
        self.range(name, begin, self.at - 1, domainId=1, int64Value=payload)

    def timeline(self, tmp_path: Path) -> Timeline:
        return build_timeline(read_nsys_sqlite(self.write(tmp_path / "t.sqlite")))


def told(timeline: Timeline) -> list[tuple[str, str]]:
    """(kind, evidence) of each kernel."""
    work = kernel_work(timeline)
    pairs = zip(work.kind.tolist(), work.told_by.tolist(), strict=True)
    return [(WORK_KINDS[kind], EVIDENCE[by]) for kind, by in pairs]


def layers(tmp_path: Path, layer: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """The same of so many layers, one after another."""
    model = Model()
    for _ in range(count):
        model.kernels(*layer)
    return told(model.timeline(tmp_path))


def test_layers_that_repeat_tell_what_their_matrix_products_are_for(tmp_path: Path) -> None:
    found = layers(tmp_path, LAYER, 5)
    assert found[:9] == [
        ("norm", "name"), (PROJECTIONS, "position"), (PROJECTIONS, "name"), ("attention", "name"),
        (PROJECTIONS, "position"), ("norm", "name"),
        ("MLP", "position"), ("MLP", "name"), ("MLP", "position"),
    ]  # fmt: skip
    # The first layer's QKV and the last one's MLP are told by the layers beside them.
    assert all(found[n : n + 9] == found[:9] for n in range(0, 45, 9))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ((GEMM, FLASH, GEMM, GEMM, ACT, GEMM), "no norm parts the output projection from the MLP"),
        ((NORM, GEMM, FLASH, GEMM, GEMM, ACT, GEMM), "attention and MLP side by side share one norm"),
        ((NORM, GEMM, FLASH, GEMM, NORM, GEMM, GEMM), "no activation shows where the MLP is"),
        ((NORM, GEMM, FLASH, GEMM, NORM, GEMM, ACT, "selective_scan_fwd", GEMM), "a mixer of another kind"),
        ((NORM, GEMM, FLASH, GEMM, NORM, GEMM, ACT, GEMM, "silu_backward_kernel"), "a backward pass"),
        ((NORM, GEMM, FLASH, GEMM, NORM, GEMM, ACT, GEMM, ARGMAX), "sampling: more than layers"),
        ((NORM, GEMM, FLASH, GEMM, NORM, GEMM, ACT, GEMM, NORM, GEMM), "one layer, then an LM head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_matrix_products_are_told_by_nothing_where_the_layer_is_not_certain(
    tmp_path: Path, layer: tuple[str, ...], why: str
) -> None:
    found = layers(tmp_path, layer, 6)
    products = [by for kind, by in zip(layer * 6, found, strict=True) if kind == GEMM]
    assert set(products) == {(MATRIX, "")}


def test_two_layers_are_no_repetition(tmp_path: Path) -> None:
    assert (MATRIX, "") in layers(tmp_path, LAYER, 2)
    assert "position" not in {by for _, by in told_of_alternating(tmp_path)}


def told_of_alternating(tmp_path: Path) -> list[tuple[str, str]]:
    """Layers of which no two side by side are alike."""
    model = Model()
    for number in range(6):
        model.kernels(*LAYER, *[GEMM] * number)
    (tmp_path / "t.sqlite").unlink()
    return told(model.timeline(tmp_path))


def test_the_head_between_two_steps_is_no_projection(tmp_path: Path) -> None:
    model = Model()
    for _ in range(4):
        for _ in range(3):
            model.kernels(*LAYER)
        model.kernels(NORM, "lm_head_gemm")
    found = told(model.timeline(tmp_path))
    step = 3 * len(LAYER) + 2
    assert [found[n * step + step - 1] for n in range(4)] == [(MATRIX, "")] * 4
    assert found[step + 1] == (PROJECTIONS, "position")  # the next step's first QKV


def test_a_modules_range_tells_before_a_name_does_and_the_innermost_counts(tmp_path: Path) -> None:
    model = Model()
    begin = model.at
    model.kernels(GEMM)
    model.own("module", MODULE_KINDS.index("norm"), RESIDUAL)
    model.kernels(FLASH, "ncclDevKernel_AllReduce")
    model.range("module", begin, model.at - 1, domainId=1, int64Value=MODULE_KINDS.index("attention"))
    model.own("module", MODULE_KINDS.index("LM head"), GEMM)
    model.own("module", len(MODULE_KINDS), GEMM)  # of a newer attnprof
    model.own("attn", 0, GEMM, RESIDUAL)  # an attention call of matrix products
    assert told(model.timeline(tmp_path)) == [
        (PROJECTIONS, "range"), ("norm", "range"), ("attention", "name"), ("communication", "name"),
        ("LM head", "range"), (MATRIX, ""), ("attention", "range"), ("attention", "range"),
    ]  # fmt: skip


@pytest.mark.parametrize("nodes", [True, False])
def test_a_graphs_kernels_have_the_module_that_was_captured(tmp_path: Path, nodes: bool) -> None:
    trace = GraphTrace()
    trace.eager(20, 20)
    begin = trace.time
    trace.capture(200, nodes=nodes)
    trace.builder.range("module", begin, trace.time, domainId=1, int64Value=MODULE_KINDS.index("MLP"))
    trace.replay()
    timeline = build_timeline(read_nsys_sqlite(trace.write(tmp_path / "t.sqlite")))
    of_graph = timeline.trace.kernels.graph_node != 0
    found = [one for one, replayed in zip(told(timeline), of_graph.tolist(), strict=True) if replayed]
    assert set(found) == {("attention", "name"), ("MLP", "range") if nodes else (MATRIX, "")}


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.name)
def test_place_and_names_agree_with_the_modules_that_real_traces_name(path: Path) -> None:
    timeline = load(path).timeline
    assert timeline.trace.modules is not None
    by_module = told(timeline)
    bare = told(replace(timeline, trace=replace(timeline.trace, modules=None)))
    both = [
        (kind, other, by)
        for (kind, source), (other, by) in zip(by_module, bare, strict=True)
        if source == "range" and by
    ]
    assert len(both) > 30
    assert not [one for one in both if one[0] != one[1]]
    assert "range" not in {by for _, by in bare}


def test_modules_are_kept_with_a_run_and_through_a_merge(tmp_path: Path) -> None:
    timeline = load(QWEN).timeline
    save_trace(timeline.trace, tmp_path / "trace.npz")
    kept, _ = load_trace(tmp_path / "trace.npz")
    assert told(build_timeline(kept)) == told(timeline)
    both = merged([timeline.trace, kept])
    assert both.modules is not None
    assert len(both.modules) == 2 * len(kept.modules or ())


POOL = (FLASH, GEMM, NORM, ACT, RESIDUAL, ARGMAX, "ncclKernel", "unknown", "rotary_embedding_kernel",
        "fused_moe_kernel", "selective_scan", "CUDA graph recorded whole")  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["prefill", "decode", "mixed", "encode", ""]),
            st.lists(st.tuples(st.sampled_from(POOL), st.integers(0, 10**9)), max_size=12),
        ),
        max_size=6,
    ),
    module=st.integers(0, len(MODULE_KINDS)),
)
def test_the_rows_of_a_phase_add_up_to_its_gpu_time_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, list[tuple[str, int]]]],
    module: int,
) -> None:
    model = Model()
    for number, (phase, kernels) in enumerate(steps):
        begin = model.at
        for name, took in kernels:
            model.kernels(name, took=took)
        if phase and kernels:
            model.range(phase, begin, model.at - 1, domainId=1, int64Value=number)
            model.range("module", begin, begin + 350, domainId=1, int64Value=module)
    timeline = model.timeline(tmp_path_factory.mktemp("sum"))
    totals = work_totals(timeline)
    spent = timeline.trace.kernels.end - timeline.trace.kernels.start
    assert sum(total.gpu_ns for total in totals) == int(spent.sum())
    assert sum(total.kernels for total in totals) == len(spent)
    phases: Counter[str] = Counter()
    for one in phase_totals(timeline):
        phases["decode" if "decode" in one.phase else one.phase] += one.gpu_ns
    for total in totals:
        assert total.phase_ns == phases[total.phase]
        assert sum(total.told_ns) == total.gpu_ns
        assert (total.kind in UNTOLD) == (
            total.gpu_ns > 0 and total.told_ns[-1] == total.gpu_ns
        ) or not total.gpu_ns


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nn.Module: Qwen2MLP_3", "MLP"), ("nn.Module: Qwen2MoeSparseMoeBlock_0", "experts"),
        ("nn.Module: FusedMoE_11", "experts"), ("nn.Module: MixtralTopKRouter_0", "router"),
        ("nn.Module: LlamaRMSNorm_7", "norm"), ("nn.Module: FusedLayerNorm_7", "norm"),
        ("nn.Module: LlamaSdpaAttention_2", "attention"), ("nn.Module: BertSelfOutput_2", "attention"),
        ("nn.Module: LlamaFlashAttention2_2", "attention"),
        ("nn.Module: Qwen2RotaryEmbedding_0", "attention"),
        ("nn.Module: BertOutput_1", "MLP"), ("nn.Module: VocabParallelEmbedding_0", "embedding"),
        ("nn.Module: ParallelLMHead_0", "LM head"), ("nn.Module: LogitsProcessor_0", "LM head"),
        ("nn.Module: Sampler_0", "sampling"), ("nn.Module: Qwen2MoeDecoderLayer_1", ""),
        ("nn.Module: MoEModel_0", ""), ("nn.Module: Qwen2ForCausalLM_0", ""), ("nn.Module: Linear_4", ""),
    ],
)  # fmt: skip
def test_a_class_tells_its_kind(name: str, kind: str) -> None:
    assert MODULE_KINDS[kind_of_class(name)] == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("mlp(F)", "MLP"), ("attn(B)", "attention"), ("model.layers.3.self_attn.qkv_proj", "attention"),
        ("{'Module': 'model.layers.3.mlp.gate', 'Inputs': [[1, 2]]}", "router"),
        ("model.layers.0.self_attn.gate", "attention"), ("model.layers.0.mlp.gate_up_proj", "MLP"),
        ("model.layers.0.input_layernorm", "norm"), ("lm_head", "LM head"),
        ("model.embed_tokens", "embedding"),
        ("gate", ""), ("layer_3_computation", ""), ("Forward", ""), ("attention is all you need", ""),
        ("aten::embedding, op_id = 3", ""),
    ],
)  # fmt: skip
def test_a_range_tells_its_kind(text: str, kind: str) -> None:
    assert MODULE_KINDS[kind_of_range(text)] == kind


@pytest.mark.parametrize(
    ("name", "kind", "stated"),
    [
        ("void vllm::fused_add_rms_norm_kernel<c10::Half, 8>", "norm", True),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3", "norm", True),
        ("triton_poi_fused_add_mul_rsqrt_backward_3", "elementwise", False),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4>", "other", False),
        ("upsample_bilinear2d_kernel", "other", False), ("TopPSamplingFromProbKernel", "sampling", True),
        ("void topkGatingSoftmax<float, 8>", "router", True), ("fused_moe_kernel", "experts", True),
        ("ncclDevKernel_AllReduce_Sum_bf16", "communication", True), ("ampere_sgemm_128x64", MATRIX, False),
        ("void vllm::reshape_and_cache_flash_kernel", PROJECTIONS, True),
    ],
)  # fmt: skip
def test_a_kernels_name_states_only_what_it_says(name: str, kind: str, stated: bool) -> None:
    assert named_kind(name) == (kind, stated)


def test_the_sentence_names_the_largest_and_what_is_not_told(tmp_path: Path) -> None:
    model = Model()
    for number in range(2):
        model.own("decode", number, FLASH, NORM, NORM, GEMM)
    totals = work_totals(model.timeline(tmp_path))
    assert work_sentences(totals) == [
        "Of decode's GPU time: norm 50.0 %, attention 25.0 %; of 25.0 % the module is not recorded."
    ]
    rows = work_table(totals).objects()
    assert [(row["kind"], row["step_ns"], row["told_by"]) for row in rows] == [
        ("norm", 100, "names"), ("attention", 50, "names"), (MATRIX, 50, "module not told"),
    ]  # fmt: skip


def test_of_a_graph_recorded_whole_nothing_is_said(tmp_path: Path) -> None:
    model = Model()
    model.own("decode", 0, FLASH, "CUDA graph recorded whole")
    totals = work_totals(model.timeline(tmp_path))
    assert work_sentences(totals) == []
    assert work_sentences([total for total in totals if total.kind == "attention"]) != []
