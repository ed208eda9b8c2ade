#include "moves.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bucket.hpp"
#include "threads.hpp"

#ifdef LP_X86
#include <emmintrin.h>
#endif

namespace layerpace {

namespace {

constexpr int64_t CHUNK = 1 << 15;  // entries of a tensor that a thread takes at a time

struct Task {
  size_t tensor;
  int64_t first, n;
  bool large;
};

std::vector<Task> cut(const std::vector<int64_t> &sizes, int64_t chunk) {
  std::vector<Task> tasks;
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
    for (int64_t first = 0; first < sizes[tensor]; first += chunk) {
      tasks.push_back({tensor, first, std::min(chunk, sizes[tensor] - first), sizes[tensor] >= LARGE_LAYER});
    }
  }
  return tasks;
}

// Calls sums(task, partial) for all chunks of all tensors, and adds what it finds, `columns` numbers, in their order.
template <class Sums>
void over_chunks(const std::vector<int64_t> &entries, int threads, int columns, double *out, Sums sums) {
  const std::vector<Task> tasks = cut(entries, CHUNK);
  std::vector<double> partial(tasks.size() * MEASURED_COUNT);
  std::atomic<size_t> next{0};
  on_threads(threads, [&](int, int) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks.size();) {
      sums(tasks[i], &partial[i * MEASURED_COUNT]);
    }
  });
  std::fill(out, out + entries.size() * static_cast<size_t>(columns), 0.0);
  for (size_t i = 0; i < tasks.size(); ++i) {
    for (int column = 0; column < columns; ++column) {
      out[tasks[i].tensor * static_cast<size_t>(columns) + column] += partial[i * MEASURED_COUNT + column];
    }
  }
}

const void *at(const Tensors &tensors, const Task &task) {
  return static_cast<const char *>(tensors.at[task.tensor]) + task.first * bytes(tensors.storage);
}

constexpr int64_t COPY_CHUNK = 1 << 17;  // bytes

void copy_chunk(const char *from, char *to, int64_t size) {
#ifdef LP_X86
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    int64_t at = 0;
    for (; at + 64 <= size; at += 64) {
      __builtin_prefetch(from + at + COPY_CHUNK / 16);
      for (int64_t i = at; i < at + 64; i += 16) {
        _mm_stream_si128(reinterpret_cast<__m128i *>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i)));
      }
    }
    std::memcpy(to + at, from + at, static_cast<size_t>(size - at));
    _mm_sfence();
    return;
  }
#endif
  std::memcpy(to, from, static_cast<size_t>(size));
}

}  // namespace

void copy_tensors(const std::vector<const void *> &from, const std::vector<void *> &to,
                  const std::vector<int64_t> &sizes, int threads) {
  std::vector<Task> tasks = cut(sizes, COPY_CHUNK);
  std::atomic<size_t> next{0};
  on_threads(threads, [&](int, int) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks.size();) {
      const Task &task = tasks[i];
      copy_chunk(static_cast<const char *>(from[task.tensor]) + task.first,
                 static_cast<char *>(to[task.tensor]) + task.first, task.n);
    }
  });
}

void sum_moves(const Tensors &old, const Tensors &now, const std::vector<int64_t> &entries, int threads, double *out) {
  over_chunks(entries, threads, 5, out, [&](const Task &task, double *sums) {
    kernels().moves(old.storage, at(old, task), now.storage, at(now, task), task.n, task.large, sums);
    std::copy(sums + M_GG + 1, sums + MEASURED_COUNT, sums + M_GG);  // there is no gradient
  });
}

void sum_squares(const Tensors &x, const std::vector<int64_t> &entries, int threads, double *out) {
  over_chunks(entries, threads, 1, out, [&](const Task &task, double *sums) {
    kernels().squares(x.storage, at(x, task), task.n, task.large, sums);
  });
}

}  // namespace layerpace
