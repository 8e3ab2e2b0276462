// What the runtime of runtime.cpp is told and what it has seen.
#pragma once
#include <array>
#include <map>
#include <string>
#include <vector>

namespace recorder {
struct Device {
  int sm_major, sm_minor, num_sms, smem_per_sm, smem_per_block, threads_per_sm;
  int active_clusters;  // what cuOccupancyMaxActiveClusters answers
};
struct Launch {
  std::string kernel;
  std::array<unsigned, 3> grid, block;
  unsigned dynamic_smem, cluster;
};
struct Resources {
  int registers, static_smem, max_threads;
};
extern Device device;
extern std::vector<Launch> launches;
extern std::vector<int> told_blocks;  // what the occupancy calls answered
std::map<void const*, std::string>& symbols();
extern std::map<std::string, Resources> resources;
}  // namespace recorder
