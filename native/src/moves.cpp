#include "moves.hpp"

#include <algorithm>
#include <atomic>

#include "bucket.hpp"
#include "threads.hpp"

namespace layerpace {

namespace {

constexpr int64_t CHUNK = 1 << 15;  // entries of a tensor that a thread takes at a time

struct Task {
  size_t tensor;
  int64_t first, n;
  bool large;
};

// Calls sums(task, partial) for all chunks of all tensors, and adds what it finds, `columns` numbers, in their order.
template <class Sums>
void over_chunks(const std::vector<int64_t> &entries, int threads, int columns, double *out, Sums sums) {
  std::vector<Task> tasks;
  for (size_t tensor = 0; tensor < entries.size(); ++tensor) {
    for (int64_t first = 0; first < entries[tensor]; first += CHUNK) {
      tasks.push_back({tensor, first, std::min(CHUNK, entries[tensor] - first), entries[tensor] >= LARGE_LAYER});
    }
  }
  std::vector<double> partial(tasks.size() * MEASURED_COUNT);
  std::atomic<size_t> next{0};
  on_threads(std::max(1, threads), [&](int, int) {
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

}  // namespace

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
