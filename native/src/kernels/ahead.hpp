// What the next block will read, fetched into the cache while this one is computed.
#pragma once

#include "../job.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

constexpr int MAX_STATES = 3;

// Consecutive entries of one tensor.
struct Stream {
  const char *at;
  int64_t entry;  // bytes; 0 where there is nothing to fetch, and `at` is any memory

  LP_INLINE_METHOD void fetch(int64_t i) const { __builtin_prefetch(at + i * entry); }
};

// The tensors of a block, each in the loop that reads it.
struct Ahead {
  Stream w, g, s[MAX_STATES], v;
  Stream u;  // the gradient, where it is u as it lies in memory
};

}  // namespace layerpace::LP_ISA
