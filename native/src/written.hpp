// The memory that a step writes: nothing else of the step may lie there, since layers are moved in no fixed order.
#pragma once

#include <cstdint>
#include <vector>

namespace layerpace {

struct Span {
  uintptr_t begin, end;
};

// Disjoint spans, in their order.
class Written {
 public:
  // False: they are not disjoint, and nothing can be asked of them.
  bool set(std::vector<Span> spans);
  // Whether any of it lies within a span.
  bool touches(const Span &span) const;

 private:
  std::vector<Span> spans_;
};

}  // namespace layerpace
