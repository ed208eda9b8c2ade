// Threads: torch's OpenMP pool, an atomic queue of tasks, and what a fork leaves of them.
#pragma once

#include <pthread.h>
#ifdef _OPENMP
#include <omp.h>
#endif

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

// Calls perform(i) for i in 0 ... count - 1, each once and in this order of starting. A task may wait for tasks that
// stand before it: those have been started.
template <class Perform>
void run_tasks(size_t count, int threads, Perform perform) {
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) perform(i);
  };
  if (threads <= 1 || count <= 1 || forked().load()) {
    work();
    return;
  }
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  work();
}

// Runs both, `here` on the calling thread, at the same time if torch may use two threads.
template <class Here, class Elsewhere>
void run_both(Here here, Elsewhere elsewhere) {
#ifdef _OPENMP
  if (omp_get_max_threads() > 1 && !forked().load()) {
#pragma omp parallel num_threads(2)
    {
      if (omp_get_thread_num() == 0) here();
      if (omp_get_thread_num() == omp_get_num_threads() - 1) elsewhere();
    }
    return;
  }
#endif
  here();
  elsewhere();
}

}  // namespace layerpace
