// What FlashInfer's planners answer and its launchers launch: a call per line of stdin, JSON on stdout.
// A line begins: kind sm_major sm_minor num_sms smem_per_sm smem_per_block threads_per_sm. Compiled once for each
// -DRECORDED_DIM and each of -DDECODE, -DPREFILL, -DBATCH_PREFILL (its kernels' bodies emptied) and -DPLANS;
// with -DSINCE_0_7_4 for packages from there on.
#include <flashinfer/attention/scheduler.cuh>
#ifdef DECODE
#include <flashinfer/attention/decode.cuh>
#endif
#if defined(PREFILL) || defined(BATCH_PREFILL)
#include <flashinfer/attention/prefill.cuh>
#endif
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/variants.cuh>

#include <fstream>
#include <iostream>

#include "runtime.h"

using namespace flashinfer;
using Element = nv_bfloat16;
using Variant = DefaultAttention<false, false, false, false>;
constexpr auto NO_ENCODING = PosEncodingMode::kNone;
#ifdef SINCE_0_7_4
#define UNIFORM(queries, fixed) queries, bool(fixed),
#define SCALES false,
#elif defined(BEFORE_0_7)
#define UNIFORM(queries, fixed)
#define SCALES
#else
#define UNIFORM(queries, fixed) queries,
#define SCALES
#endif

static std::vector<char> whole(1 << 29), staged(1 << 27);
static std::ostringstream plan;
constexpr size_t ROOM = size_t(1) << 40;  // of the workspace that kernels write, which nobody does here

static std::vector<int> indptr(std::istream& in, int count) {
  std::vector<int> sums{0};
  for (int i = 0, one; i < count; ++i) in >> one, sums.push_back(sums.back() + one);
  return sums;
}

#ifdef PLANS
static void loads(int const* work_indptr, int count) {
  plan << "\"work_indptr\":[";
  for (int i = 0; i <= count; ++i) plan << (i ? "," : "") << work_indptr[i];
  plan << "]";
}
// heads heads_k head_dim head_dim_v page causal cuda_graph batch, queries, keys
static void sm90(std::istream& in) {
  int heads, heads_k, dim, dim_v, page, causal, graph, batch;
  in >> heads >> heads_k >> dim >> dim_v >> page >> causal >> graph >> batch;
  auto queries = indptr(in, batch), keys = indptr(in, batch), pages = std::vector<int>{0}, lengths = pages;
  lengths.clear();
  for (int i = 0; i < batch; ++i) {
    lengths.push_back(keys[i + 1] - keys[i]);
    pages.push_back(pages.back() + (lengths.back() + page - 1) / page);
  }
  PrefillPlanSM90Info info;
  PrefillSM90Plan<int>(whole.data(), whole.size(), whole.data(), staged.data(), staged.size(), info, queries.data(),
                       pages.data(), lengths.data(), queries.back(), batch, heads, heads_k, dim, dim_v, page, causal,
                       graph, 2, nullptr);
  plan << "\"same_schedule\":" << info.same_schedule_for_all_heads
       << ",\"room\":" << (info.qo_indptr_offset - info.qo_tile_indices_offset) / 4 << ",";
  loads(reinterpret_cast<int*>(staged.data() + info.work_indptr_offset), recorder::device.num_sms);
}
#ifndef BEFORE_0_7
// heads heads_k head_dim page cuda_graph window fixed_split disable_split uniform always batch, queries, keys
static void batch_plan(std::istream& in) {
  int heads, heads_k, dim, page, graph, window, fixed, disabled, uniform, always, batch;
  in >> heads >> heads_k >> dim >> page >> graph >> window >> fixed >> disabled >> uniform >> always >> batch;
  auto queries = indptr(in, batch), keys = indptr(in, batch), pages = std::vector<int>{0};
  for (int i = 0; i < batch; ++i) pages.push_back(pages.back() + (keys[i + 1] - keys[i] + page - 1) / page);
  int const most = 2 * recorder::device.num_sms / heads_k;  // as PrefillPlanImpl has it
  auto const found = PrefillSplitQOKVIndptr<int>(queries.data(), pages.data(), queries.back(), batch, heads, heads_k, dim,
                                                 page, most, graph, window, fixed, disabled, UNIFORM(uniform, always) dim, 2);
  PrefillPlanInfo info;  // which says again what it can
  PrefillPlan<int>(whole.data(), ROOM, whole.data(), staged.data(), staged.size(), info, queries.data(), pages.data(),
                   queries.back(), batch, heads, heads_k, dim, dim, page, graph, 2, window, fixed, disabled, 0,
                   UNIFORM(uniform, always) nullptr);
  if (info.padded_batch_size != std::get<2>(found) || info.cta_tile_q != std::get<3>(found) ||
      info.split_kv != std::get<0>(found))
    throw std::runtime_error("the planner differs from its part");
  plan << "\"split_kv\":" << std::get<0>(found) << ",\"num_work_items\":" << std::get<1>(found)
       << ",\"padded_batch_size\":" << info.padded_batch_size << ",\"cta_tile_q\":" << info.cta_tile_q
       << ",\"kv_chunk_size\":" << std::get<4>(found) << ",\"grid\":[" << info.padded_batch_size << ",1," << heads_k
       << "]";
}
#endif
// heads head_dim_v causal batch, queries, keys
static void mla(std::istream& in) {
  int heads, dim_v, causal, batch;
  in >> heads >> dim_v >> causal >> batch;
  auto queries = indptr(in, batch), keys = indptr(in, batch);
  std::vector<int> lengths;
  for (int i = 0; i < batch; ++i) lengths.push_back(keys[i + 1] - keys[i]);
  MLAPlanInfo info;
  size_t bytes = 0;
  MLAPlan<int>(whole.data(), whole.size(), whole.data(), staged.data(), staged.size(), info,
#ifndef BEFORE_0_7
               bytes,
#endif
               queries.data(), keys.data(), lengths.data(), batch, heads, dim_v, causal, nullptr);
  auto at = [&](int64_t offset) { return reinterpret_cast<int*>(staged.data() + offset); };
  int const works = at(info.work_indptr_offset)[info.num_blks_y];
  int longest = 0, partial = 0, merging = 0;
  for (int i = 0; i < works; ++i) {
    longest = std::max(longest, at(info.kv_end_offset)[i] - at(info.kv_start_offset)[i]);
    partial += at(info.partial_indptr_offset)[i] >= 0;
  }
  for (int i = 0; i < recorder::device.num_sms; ++i) merging += at(info.merge_partial_stride_offset)[i] > 0;
  plan << "\"grid\":[" << info.num_blks_x << "," << info.num_blks_y << ",1],\"num_work_items\":" << works
       << ",\"longest\":" << longest << ",\"partial\":" << partial << ",\"merging\":" << merging << ",";
  loads(at(info.work_indptr_offset), info.num_blks_y);
}
#endif

#ifdef DECODE
// heads heads_k kv_len
static void single_decode(std::istream& in) {
  int heads, heads_k, keys;
  in >> heads >> heads_k >> keys;
  SingleDecodeParams<Element, Element, Element> params(nullptr, nullptr, nullptr, nullptr, nullptr, keys, heads, heads_k,
                                                       QKVLayout::kNHD, RECORDED_DIM, -1, 0.f, 1.f, 1.f, 1e4f);
  SingleDecodeWithKVCacheDispatched<RECORDED_DIM, NO_ENCODING, Variant>(params, reinterpret_cast<Element*>(whole.data()),
                                                                    nullptr);
}
// heads heads_k page cuda_graph batch, pages
static void batch_decode(std::istream& in) {
  int heads, heads_k, page, graph, batch;
  in >> heads >> heads_k >> page >> graph >> batch;
  auto pages = indptr(in, batch);
  using Params = BatchDecodeParams<Element, Element, Element, int>;
  DecodePlanInfo info;
  DISPATCH_GQA_GROUP_SIZE(heads / heads_k, GROUP_SIZE, {
    auto estimate = BatchDecodeWithPagedKVCacheWorkEstimationDispatched<GROUP_SIZE, RECORDED_DIM, NO_ENCODING, Variant, Params>;
    DecodePlan<RECORDED_DIM, NO_ENCODING, Variant, Params>(whole.data(), whole.size(), whole.data(), staged.data(),
                                                       staged.size(), info, pages.data(), batch, heads, page, graph,
                                                       nullptr, estimate);
  });
  auto at = [&](int64_t offset) { return reinterpret_cast<int*>(staged.data() + offset); };
  plan << "\"split_kv\":" << info.split_kv << ",\"padded_batch_size\":" << info.padded_batch_size
       << ",\"num_work_items\":" << at(info.o_indptr_offset)[batch]
       << ",\"kv_chunk_size\":" << *at(info.kv_chunk_size_ptr_offset);
  Params params{};
  params.num_qo_heads = heads;
  params.padded_batch_size = info.padded_batch_size;
  params.paged_kv.num_heads = heads_k;
  params.paged_kv.batch_size = batch;
  auto* tmp = info.split_kv ? reinterpret_cast<Element*>(whole.data()) : nullptr;
  BatchDecodeWithPagedKVCacheDispatched<RECORDED_DIM, NO_ENCODING, Variant>(params, tmp, nullptr, false, nullptr);
}
#endif

#ifdef PREFILL
// heads heads_k qo_len kv_len causal
static void single_prefill(std::istream& in) {
  int heads, heads_k, queries, keys, causal;
  in >> heads >> heads_k >> queries >> keys >> causal;
  using Params = SinglePrefillParams<Element, Element, Element>;
  Params params{};
  params.num_qo_heads = heads, params.num_kv_heads = heads_k;
  params.group_size = uint_fastdiv(heads / heads_k);
  params.qo_len = queries, params.kv_len = keys;
  auto* tmp = reinterpret_cast<Element*>(whole.data());
  if (causal)
    SinglePrefillWithKVCacheDispatched<RECORDED_DIM, RECORDED_DIM, NO_ENCODING, false, MaskMode::kCausal, SCALES Variant>(
        params, tmp, nullptr);
  else
    SinglePrefillWithKVCacheDispatched<RECORDED_DIM, RECORDED_DIM, NO_ENCODING, false, MaskMode::kNone, SCALES Variant>(
        params, tmp, nullptr);
}
#endif

#ifdef BATCH_PREFILL
#ifdef BEFORE_0_7
#define FIRST
#else
#define FIRST true,
#endif
// heads heads_k page cuda_graph batch, queries, pages
static void batch_prefill(std::istream& in) {
  int heads, heads_k, page, graph, batch;
  in >> heads >> heads_k >> page >> graph >> batch;
  auto queries = indptr(in, batch), pages = indptr(in, batch);
  PrefillPlanInfo info;
  PrefillPlan<int>(whole.data(), ROOM, whole.data(), staged.data(), staged.size(), info, queries.data(),
                   pages.data(), queries.back(), batch, heads, heads_k, RECORDED_DIM, RECORDED_DIM, page, graph, 2, -1, -1,
                   false, 0, UNIFORM(0, false) nullptr);
  using Params = BatchPrefillPagedParams<Element, Element, Element, int>;
  Params params{};
  params.num_qo_heads = heads;
  params.paged_kv.num_heads = heads_k;
  params.padded_batch_size = info.padded_batch_size;
  params.max_total_num_rows = info.total_num_rows;
  auto* tmp = info.split_kv ? reinterpret_cast<Element*>(whole.data()) : nullptr;
  plan << "\"split_kv\":" << info.split_kv << ",\"padded_batch_size\":" << info.padded_batch_size;
  DISPATCH_CTA_TILE_Q(info.cta_tile_q, CTA_TILE_Q, {
    BatchPrefillWithPagedKVCacheDispatched<FIRST CTA_TILE_Q, RECORDED_DIM, RECORDED_DIM, NO_ENCODING, false,
                                           MaskMode::kCausal, SCALES Variant, Params>(params, tmp, nullptr, false,
                                                                                      nullptr);
  });
}
#endif

int main(int argc, char** argv) {
  std::ifstream table(argc > 1 ? argv[1] : "/dev/null");  // sm, symbol, registers, static shared memory, launch bound
  std::map<int, std::map<std::string, recorder::Resources>> by_sm;
  int sm;
  std::string symbol, line, kind;
  recorder::Resources one;
  while (table >> sm >> symbol >> one.registers >> one.static_smem >> one.max_threads) by_sm[sm][symbol] = one;
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    auto& d = recorder::device;
    in >> kind >> d.sm_major >> d.sm_minor >> d.num_sms >> d.smem_per_sm >> d.smem_per_block >> d.threads_per_sm;
    recorder::resources = by_sm[d.sm_major * 10 + d.sm_minor];
    recorder::launches.clear();
    recorder::told_blocks.clear();
    plan.str("");
    std::string error;
    try {
#ifdef PLANS
      if (kind == "sm90") sm90(in);
      if (kind == "mla") mla(in);
#ifndef BEFORE_0_7
      if (kind == "batch_plan") batch_plan(in);
#endif
#endif
#ifdef DECODE
      if (kind == "single_decode") single_decode(in);
      if (kind == "batch_decode") batch_decode(in);
#endif
#ifdef PREFILL
      if (kind == "single_prefill") single_prefill(in);
#endif
#ifdef BATCH_PREFILL
      if (kind == "batch_prefill") batch_prefill(in);
#endif
    } catch (std::exception const& raised) {
      error = raised.what();
      recorder::launches.clear();
      plan.str("");
    }
    for (auto& c : error) c = c == '"' ? '\'' : c == '\n' ? ' ' : c;
    std::cout << "{\"error\":\"" << error << "\",\"plan\":{" << plan.str() << "},\"blocks_per_sm\":[";
    for (size_t i = 0; i < recorder::told_blocks.size(); ++i) std::cout << (i ? "," : "") << recorder::told_blocks[i];
    std::cout << "],\"launches\":[";
    bool first = true;
    for (auto const& l : recorder::launches) {
      std::cout << (first ? "" : ",") << "{\"kernel\":\"" << l.kernel << "\",\"grid\":[" << l.grid[0] << "," << l.grid[1]
                << "," << l.grid[2] << "],\"block\":[" << l.block[0] << "," << l.block[1] << "," << l.block[2]
                << "],\"dynamic_smem\":" << l.dynamic_smem << "}";
      first = false;
    }
    std::cout << "]}\n";
  }
}
