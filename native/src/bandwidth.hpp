// What the memory of a machine can do: the ceiling that a step is measured against.
#pragma once

#include <cstdint>

namespace layerpace {

struct Bandwidth {
  double read, update;  // bytes a second: two arrays read; four read and three of them written in place
};

// n: entries of each float32 array. The best of a few repetitions.
Bandwidth measure_bandwidth(int64_t n, int threads, int repetitions);

}  // namespace layerpace
