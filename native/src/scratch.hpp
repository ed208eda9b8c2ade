// Memory that a step needs for itself and keeps for the next one.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace layerpace {

class Scratch {
 public:
  // At least so many bytes, not initialized; what was there before is gone. On huge pages where there are any. Null:
  // there is not so much memory.
  char *room(int64_t size) {
    if (size <= size_) return memory_.get();
    constexpr int64_t page = int64_t{2} << 20;
    const int64_t whole = (size + page - 1) / page * page;
    void *memory = nullptr;
    size_ = 0;
    memory_.reset();
    if (posix_memalign(&memory, static_cast<size_t>(page), static_cast<size_t>(whole)) != 0) return nullptr;
    memory_.reset(static_cast<char *>(memory));
    size_ = whole;
#if defined(__linux__)
    madvise(memory_.get(), static_cast<size_t>(whole), MADV_HUGEPAGE);
#endif
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char *memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t size_ = 0;
};

}  // namespace layerpace
