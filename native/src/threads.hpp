// Threads: torch's OpenMP pool, and what a fork leaves of it.
#pragma once

#include <pthread.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace layerpace {

// A child of fork has none of its parent's threads, and OpenMP would wait for them forever: it works alone, to the
// same bits.
inline std::atomic<bool> &forked() {
  static std::atomic<bool> flag{false};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked().store(true); });
  static_cast<void>(registered);
  return flag;
}

inline void pause_briefly(int turn) {
  if (turn > 1000) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// So many threads, within reason: OpenMP ends the process if it cannot have them.
inline int usable_threads(int threads) {
  int most = 64;
#ifdef _OPENMP
  most = std::max(most, omp_get_num_procs());
#endif
  return std::clamp(threads, 1, most);
}

// Calls work(thread, threads) on each of so many threads; fewer where torch's pool has no more to give.
template <class Work>
void on_threads(int threads, Work work) {
  threads = usable_threads(threads);
#ifdef _OPENMP
  if (threads > 1 && !forked().load()) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  work(0, 1);
}

// Runs both, `here` on the calling thread, at the same time if there are two threads. All of them are called, since
// OpenMP ends those that a smaller team leaves out.
template <class Here, class Elsewhere>
void run_both(int threads, Here here, Elsewhere elsewhere) {
  on_threads(threads, [&](int thread, int count) {
    if (thread == 0) here();
    if (thread == count - 1) elsewhere();
  });
}

}  // namespace layerpace
