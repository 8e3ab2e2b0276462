// What FlashInfer's TllmGenFmhaRunner launches: a call per line of stdin, its launches as JSON on stdout.
// A line: sm num_sms q kv out context batch max_q max_k heads heads_k head_dim head_dim_v page window_left
// causal active_clusters separate topk dynamic. The runner's parameters are set as
// csrc/trtllm_fmha_kernel_launcher.cu sets them; separate: Q, K and V each of their own, without pages; topk: keys
// that sparse MLA picks, 0 for none, and whether each query says how many it has.
#include <flashinfer/trtllm/fmha/fmhaRunner.cuh>

#include <iostream>
#include <memory>
#include <sstream>

#include "runtime.h"

namespace flashinfer::trtllm_cubin_loader {
std::string getCubin(std::string const&, std::string const&) { return "cubin"; }
}  // namespace flashinfer::trtllm_cubin_loader

static Data_type dtype(std::string const& name) {
  return name == "bf16"   ? Data_type::DATA_TYPE_BF16
         : name == "fp16" ? Data_type::DATA_TYPE_FP16
         : name == "fp8"  ? Data_type::DATA_TYPE_E4M3
                          : Data_type::DATA_TYPE_E2M1;
}

int main() {
  std::string line;
  alignas(128) static char buffer[4096];
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    int sm, num_sms, context, batch, max_q, max_k, heads, heads_k, dim, dim_v, page, window, causal, clusters;
    int separate, topk, dynamic;
    std::string q, kv, out;
    in >> sm >> num_sms >> q >> kv >> out >> context >> batch >> max_q >> max_k >> heads >> heads_k >> dim >>
        dim_v >> page >> window >> causal >> clusters >> separate >> topk >> dynamic;
    recorder::device = {sm / 10, sm % 10, num_sms, 233472, 232448, 2048, clusters};
    recorder::launches.clear();
    std::string error;
    try {
      TllmGenFmhaRunnerParams p{};
      p.qPtr = p.kPtr = p.vPtr = p.kvPageIdxPtr = p.seqLensKvPtr = reinterpret_cast<int*>(buffer);
      p.oPtr = p.multiCtasKvScratchPtr = buffer;
      p.cumSeqLensQPtr = p.cumSeqLensKvPtr = p.multiCtasKvCounterPtr = reinterpret_cast<int*>(buffer);
      p.mHeadDimQk = dim, p.mHeadDimV = dim_v;
      p.mNumHeadsQ = heads, p.mNumHeadsKv = heads_k, p.mNumHeadsQPerKv = heads / heads_k;
      p.mBatchSize = batch, p.mMaxSeqLenKv = max_k, p.mMaxSeqLenQ = max_q;
      p.mMaxNumPagesPerSeqKv = (max_k + page - 1) / page, p.mNumTokensPerPage = page;
      p.mQkvLayout = separate ? QkvLayout::SeparateQkv : QkvLayout::PagedKv;
      p.mMultiProcessorCount = num_sms;
      p.qStrideTokens = heads * dim, p.qStrideHeads = dim;
      p.kStrideKeysValues = p.vStrideKeysValues = dim;
      p.kStrideHeads = p.vStrideHeads = page * dim;
      p.kStrideBatch = p.vStrideBatch = heads_k * page * dim;
      p.mNumPagesInMemPool = 2 * batch * p.mMaxNumPagesPerSeqKv;
#ifdef SINCE_0_7_4
      p.mChunkedAttentionSize = 0;
      p.mLeftSlidingWindow = window, p.mRightSlidingWindow = window == -1 ? -1 : 0;
#else
      p.mChunkedAttentionSize = INT_MAX;
      p.mAttentionWindowSize = window == -1 ? INT_MAX : window + 1;
#endif
      p.mSumOfSeqLensQ = batch * max_q, p.mSumOfSeqLensKv = batch * max_k;
      if (separate) {
        p.kvPageIdxPtr = nullptr;
        p.kStrideKeysValues = heads_k * dim, p.vStrideKeysValues = heads_k * dim_v;
        p.kStrideHeads = dim, p.vStrideHeads = dim_v, p.kStrideBatch = p.vStrideBatch = 0;
      }
      p.mUsesSharedPagedKvIdx = true, p.enable_pdl = true;
      p.outputScale = p.scaleSoftmaxLog2 = p.mScaleSfKv = 1.f;
#ifdef SEPARATE_KV
      if (!context && q == "bf16" && kv == "fp8" && out == "bf16")
        p.mBf16QFp8KvTransformMode = Bf16QFp8KvTransformMode::SeparateKv;
#endif
#ifdef ONE_KV_DTYPE  // before 0.6.10, which asks for latent attention's kernels by another mask
      bool const mla = false;
#else
      bool const mla =
          (dim == 576 && dim_v == 512) || (dim == 320 && dim_v == 256) || (topk && dim == 512 && dim_v == 512);
      p.kSfBasePtr = p.vSfBasePtr = buffer;  // of an NVFP4 cache
      p.mSparseMlaTopK = topk;
      p.mSparseMlaType = topk == 0  ? TrtllmGenSparseMlaType::None
                         : dynamic ? TrtllmGenSparseMlaType::DynamicTokenSparse
                                   : TrtllmGenSparseMlaType::StaticTokenSparse;
      if (dynamic) {
        p.sparseMlaTopKLensPtr = reinterpret_cast<int*>(buffer);
        p.slidingWindowKvPoolPtr = buffer, p.mHasSlidingWindowKvPool = true;
      }
#endif
      p.mMaskType = context ? (causal ? TrtllmGenAttentionMaskType::Causal : TrtllmGenAttentionMaskType::Dense)
                            : (mla ? TrtllmGenAttentionMaskType::Dense : TrtllmGenAttentionMaskType::Causal);
#ifdef SINCE_0_7_4  // the launcher itself tells whether a window binds
      if (!mla && (!context || causal) && window >= 0 && max_k > window + 1)
        p.mMaskType = TrtllmGenAttentionMaskType::SlidingOrChunkedCausal;
#endif
      p.mKernelType = context ? FmhaKernelType::Context : FmhaKernelType::Generation;
      p.mTileScheduler = context ? TileScheduler::Persistent : TileScheduler::Static;
      p.mMultiCtasKvMode = !context;
#ifdef ONE_KV_DTYPE
      TllmGenFmhaRunner runner(dtype(q), dtype(kv), dtype(out));
#else
      TllmGenFmhaRunner runner(dtype(q), dtype(kv), dtype(kv), dtype(out));
#endif
      auto [found, info] = runner.isSupportedWithInfo(p);
      std::string const kind = separate ? " ragged attention" : context ? " (context)" : " (decode)";
      if (!found) throw std::runtime_error("Missing TRTLLM-GEN kernel" + kind + ": " + info);
      runner.run(p);
    } catch (std::exception const& raised) {
      error = raised.what();
      recorder::launches.clear();
    }
    std::cout << "{\"error\":\"" << error.substr(0, error.find('\n')) << "\",\"launches\":[";
    bool first = true;
    for (auto const& one : recorder::launches) {
      std::cout << (first ? "" : ",") << "{\"kernel\":\"" << one.kernel << "\",\"grid\":[" << one.grid[0] << ","
                << one.grid[1] << "," << one.grid[2] << "],\"block\":[" << one.block[0] << "," << one.block[1] << ","
                << one.block[2] << "],\"dynamic_smem\":" << one.dynamic_smem << ",\"cluster\":" << one.cluster << "}";
      first = false;
    }
    std::cout << "]}\n";
  }
}
