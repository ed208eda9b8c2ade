// How far tensors have moved: sums that monitors read, over weights that anybody has changed.
#pragma once

#include <cstdint>
#include <vector>

#include "job.hpp"

namespace layerpace {

// Dense memory, all tensors of one storage each side: f64 on both sides, or none.
struct Tensors {
  std::vector<const void *> at;
  Storage storage = Storage::f32;
};

// <w, w>, |w|_1, <d, d>, <w, d>, |d|_1 with w = old and d = old - now, five numbers a tensor. The same bits for any
// number of threads.
void sum_moves(const Tensors &old, const Tensors &now, const std::vector<int64_t> &entries, int threads, double *out);

// Copies bytes of tensors that do not overlap, past the caches: nobody reads the copies soon.
void copy_tensors(const std::vector<const void *> &from, const std::vector<void *> &to,
                  const std::vector<int64_t> &sizes, int threads);

// <x, x>, one number a tensor.
void sum_squares(const Tensors &x, const std::vector<int64_t> &entries, int threads, double *out);

}  // namespace layerpace
