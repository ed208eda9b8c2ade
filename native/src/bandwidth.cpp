#include "bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "threads.hpp"

namespace layerpace {

namespace {

constexpr int64_t PART = 1 << 14;

template <class Body>
double seconds(int64_t n, int threads, Body body) {
  const auto start = std::chrono::steady_clock::now();
  on_threads(threads, [&](int thread, int count) {
    for (int64_t first = thread * PART; first < n; first += count * PART) body(first, std::min(n, first + PART));
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Bandwidth measure_bandwidth(int64_t n, int threads, int repetitions) {
  if (n < 1 || n > int64_t{1} << 40 || threads < 1 || repetitions < 1) {
    throw std::invalid_argument("numbers, threads and repetitions must be at least 1");
  }
  std::unique_ptr<float[]> array[4];
  for (auto &x : array) x.reset(new float[n]);
  float *a = array[0].get(), *b = array[1].get(), *c = array[2].get(), *d = array[3].get();
  seconds(n, threads, [&](int64_t i, int64_t end) {  // pages are given out where they are first written
    for (; i < end; ++i) a[i] = b[i] = c[i] = 0.0f, d[i] = 1.0f;
  });
  Bandwidth best{0, 0};
  std::atomic<double> sink{0};
  for (int turn = 0; turn < repetitions; ++turn) {
    double reading = seconds(n, threads, [&](int64_t i, int64_t end) {
      float lane[64] = {}, sum = 0;
      for (; i + 64 <= end; i += 64) {
        for (int k = 0; k < 64; ++k) lane[k] += a[i + k] * b[i + k];
      }
      for (float x : lane) sum += x;  // all of them are used, or a compiler would not read what they are made of
      sink.store(sum);
    });
    double updating = seconds(n, threads, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) a[i] += 0.1f * d[i], b[i] += 0.2f * d[i], c[i] += 0.3f * d[i];
    });
    best.read = std::max(best.read, 8.0 * static_cast<double>(n) / reading);
    best.update = std::max(best.update, 28.0 * static_cast<double>(n) / updating);
  }
  return best;
}

}  // namespace layerpace
