// A CUDA runtime that records launches and makes none: preload it before libcudart. With -DDRIVER it is a
// driver that answers success, for which torch asks by its file's name.
//   g++ -O1 -shared -fPIC -I/usr/local/cuda/include cuda_recorder.cpp -o cuda_recorder.so
//   g++ -O1 -shared -fPIC -I/usr/local/cuda/include -DDRIVER cuda_recorder.cpp -o driver/libcuda.so.1
// Device memory is host memory. RECORDED_GPU=major,minor,SMs,shared memory per SM,per block (opt-in).
// RECORDED_ARGUMENT=text: of kernels with it in their name, the first argument's first 20 integers are kept too.
#ifdef DRIVER
extern "C" {
static int succeed() { return 0; }
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char*, void** function, int, unsigned long long, void*) {
  *function = (void*)succeed;
  return 0;
}
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}
int cuTensorMapEncodeTiled() { return 0; }
}
#else
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {
constexpr int INTEGERS = 20;
struct Launch { std::string name; dim3 grid, block; size_t smem; int first[INTEGERS]; };
std::vector<Launch>& launches() { static std::vector<Launch> all; return all; }
std::map<const void*, std::string>& names() { static std::map<const void*, std::string> all; return all; }
struct Device {
  int major = 9, minor = 0, sms = 132, per_sm = 233472, per_block = 232448;
  Device() {
    if (const char* text = getenv("RECORDED_GPU")) sscanf(text, "%d,%d,%d,%d,%d", &major, &minor, &sms, &per_sm, &per_block);
  }
};
Device& device() { static Device only; return only; }
void record(const void* function, dim3 grid, dim3 block, size_t smem, void** arguments) {
  auto found = names().find(function);
  Launch made{found == names().end() ? "?" : found->second, grid, block, smem, {}};
  const char* wanted = getenv("RECORDED_ARGUMENT");
  if (wanted && made.name.find(wanted) != std::string::npos) memcpy(made.first, arguments[0], sizeof made.first);
  launches().push_back(made);
}
thread_local struct { dim3 grid, block; size_t smem; cudaStream_t stream; } configured;
int handle;
int succeed() { return 0; }  // any function of the driver
}  // namespace

extern "C" {
int recorder_count() { return launches().size(); }
void recorder_reset() { launches().clear(); }
const char* recorder_name(int i) { return launches()[i].name.c_str(); }
void recorder_sizes(int i, unsigned long* out) {
  const Launch& l = launches()[i];
  const unsigned long sizes[] = {l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z, l.smem};
  memcpy(out, sizes, sizeof sizes);
}
void recorder_argument(int i, int* out) { memcpy(out, launches()[i].first, sizeof launches()[i].first); }

void** __cudaRegisterFatBinary(void*) { static void* some; return &some; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  names()[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t smem, cudaStream_t stream) {
  configured = {grid, block, smem, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* smem, void* stream) {
  *grid = configured.grid; *block = configured.block; *smem = configured.smem;
  *static_cast<cudaStream_t*>(stream) = configured.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t smem, cudaStream_t) {
  record((const void*)kernel, grid, block, smem, arguments);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t smem, cudaStream_t) {
  record(function, grid, block, smem, arguments);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  record(function, config->gridDim, config->blockDim, config->dynamicSmemBytes, arguments);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int* id) { *id = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "recorded");
  p->major = device().major; p->minor = device().minor; p->multiProcessorCount = device().sms;
  p->sharedMemPerMultiprocessor = device().per_sm; p->sharedMemPerBlockOptin = device().per_block;
  p->sharedMemPerBlock = 49152; p->totalGlobalMem = 80ull << 30; p->warpSize = 32;
  p->maxThreadsPerBlock = 1024; p->maxThreadsPerMultiProcessor = 2048; p->regsPerBlock = 65536;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device().major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device().minor; break;
    case cudaDevAttrMultiProcessorCount: *value = device().sms; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device().per_sm; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device().per_block; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaMalloc(void** at, size_t size) { *at = aligned_alloc(4096, (size + 4095) / 4096 * 4096); return cudaSuccess; }
cudaError_t cudaFree(void* at) { free(at); return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* left, size_t* all) { *left = *all = 80ull << 30; return cudaSuccess; }
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) { memcpy(to, from, size); return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t) { memcpy(to, from, size); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void* at, int value, size_t size, cudaStream_t) { memset(at, value, size); return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { *stream = (cudaStream_t)&handle; return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) { *status = cudaStreamCaptureStatusNone; return cudaSuccess; }
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
#else
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPoint(const char*, void** function, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  *function = (void*)succeed;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
#endif
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { *event = (cudaEvent_t)&handle; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  *function = (void*)succeed;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 1;
  return cudaSuccess;
}
CUresult cuPointerGetAttribute(void*, CUpointer_attribute, CUdeviceptr) { return CUDA_SUCCESS; }
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}
}
#endif
