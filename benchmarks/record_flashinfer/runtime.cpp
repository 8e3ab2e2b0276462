// A CUDA runtime and driver without a GPU: they report the device that is asked for and write down launches.
#include "runtime.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include <cuda_occupancy.h>

namespace recorder {
Device device;
std::vector<Launch> launches;
std::vector<int> told_blocks;
std::map<void const*, std::string>& symbols() {  // kernels register before the globals of a file are made
  static std::map<void const*, std::string> names;
  return names;
}
std::map<std::string, Resources> resources;
}  // namespace recorder

using recorder::device;

static CUresult attribute(int* value, int which) {
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = device.num_sms; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = device.sm_major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = device.sm_minor; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = device.smem_per_block; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = device.smem_per_sm; break;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: *value = 1; break;
    default: fprintf(stderr, "attribute %d was asked for\n", which); return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

extern "C" {
CUresult cuGetErrorName(CUresult, char const** text) { *text = "recorder"; return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, char const** text) { *text = "recorder"; return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* found) { *found = 0; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) { return attribute(value, which); }
CUresult cuModuleLoadData(CUmodule* module, void const*) { *module = nullptr; return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, char const* name) {
  *function = reinterpret_cast<CUfunction>(const_cast<char*>(name));
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int* found, CUfunction, CUlaunchConfig const*) {
  *found = device.active_clusters;
  return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, cuuint64_t const*,
                                cuuint64_t const*, cuuint32_t const*, cuuint32_t const*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(CUlaunchConfig const* config, CUfunction function, void**, void**) {
  recorder::Launch launch{reinterpret_cast<char const*>(function),
                          {config->gridDimX, config->gridDimY, config->gridDimZ},
                          {config->blockDimX, config->blockDimY, config->blockDimZ},
                          config->sharedMemBytes, 1};
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      launch.cluster = config->attrs[i].value.clusterDim.x;
  recorder::launches.push_back(launch);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDevice(int* found) { *found = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return attribute(value, which) == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
char const* cudaGetErrorString(cudaError_t) { return "recorder"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void*, void const*, size_t, cudaMemcpyKind, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(void const*, cudaFuncAttribute, int) { return cudaSuccess; }
static void launched(void const* function, dim3 grid, dim3 block, size_t smem) {
  recorder::launches.push_back({recorder::symbols()[function], {grid.x, grid.y, grid.z},
                                {block.x, block.y, block.z}, (unsigned)smem, 1});
}
cudaError_t cudaLaunchKernel(void const* function, dim3 grid, dim3 block, void**, size_t smem, cudaStream_t) {
  launched(function, grid, block, smem);
  return cudaSuccess;
}
cudaError_t cudaLaunchCooperativeKernel(void const* f, dim3 grid, dim3 block, void**, size_t smem, cudaStream_t) {
  launched(f, grid, block, smem);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* config, void const* function, void**) {
  launched(function, config->gridDim, config->blockDim, config->dynamicSmemBytes);
  return cudaSuccess;
}
// What NVIDIA's own header computes of the registers and shared memory that ptxas printed for the kernel.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void const* function, int threads,
                                                                   size_t smem, unsigned) {
  auto found = recorder::resources.find(recorder::symbols()[function]);
  if (found == recorder::resources.end()) {
    fprintf(stderr, "registers of %s are not known\n", recorder::symbols()[function].c_str());
    return cudaErrorInvalidValue;
  }
  cudaOccDeviceProp properties;
  properties.computeMajor = device.sm_major;
  properties.computeMinor = device.sm_minor;
  properties.maxThreadsPerBlock = 1024;
  properties.maxThreadsPerMultiprocessor = device.threads_per_sm;
  properties.regsPerBlock = properties.regsPerMultiprocessor = 65536;
  properties.warpSize = 32;
  properties.sharedMemPerBlock = 49152;
  properties.sharedMemPerMultiprocessor = device.smem_per_sm;
  properties.numSms = device.num_sms;
  properties.sharedMemPerBlockOptin = device.smem_per_block;
  properties.reservedSharedMemPerBlock = 1024;
  cudaOccFuncAttributes attributes;
  attributes.maxThreadsPerBlock = found->second.max_threads;
  attributes.numRegs = found->second.registers;
  attributes.sharedSizeBytes = found->second.static_smem;
  attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
  attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  attributes.maxDynamicSharedSizeBytes = smem;
  attributes.numBlockBarriers = 1;
  cudaOccDeviceState state;
  cudaOccResult result;
  auto error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads, smem);
  if (error != CUDA_OCC_SUCCESS) {
    fprintf(stderr, "cuda_occupancy.h: error %d\n", error);
    return cudaErrorInvalidValue;
  }
  *blocks = result.activeBlocksPerMultiprocessor;
  recorder::told_blocks.push_back(*blocks);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void const* function, int threads, size_t smem) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, smem, 0);
}

void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, char const* host, char*, char const* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  recorder::symbols()[host] = name;
}
void __cudaRegisterVar(void**, char*, char*, char const*, int, size_t, int, int) {}
static dim3 pushed_grid, pushed_block;
static size_t pushed_smem;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t smem, void*) {
  pushed_grid = grid, pushed_block = block, pushed_smem = smem;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* smem, void*) {
  *grid = pushed_grid, *block = pushed_block, *smem = pushed_smem;
  return cudaSuccess;
}
char __cudaInitModule(void**) { return 0; }
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, void const* entry) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(entry));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t smem, cudaStream_t) {
  launched(kernel, grid, block, smem);
  return cudaSuccess;
}
}
