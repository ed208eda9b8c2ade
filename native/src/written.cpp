#include "written.hpp"

#include <algorithm>
#include <utility>

namespace layerpace {

bool Written::set(std::vector<Span> spans) {
  std::sort(spans.begin(), spans.end(), [](const Span &a, const Span &b) { return a.begin < b.begin; });
  for (size_t k = 1; k < spans.size(); ++k) {
    if (spans[k].begin < spans[k - 1].end) return false;
  }
  spans_ = std::move(spans);
  return true;
}

bool Written::touches(const Span &span) const {
  // The first one that ends behind the span's begin: no other can reach into it before.
  auto at = std::upper_bound(spans_.begin(), spans_.end(), span.begin,
                             [](uintptr_t begin, const Span &other) { return begin < other.end; });
  return at != spans_.end() && at->begin < span.end;
}

}  // namespace layerpace
