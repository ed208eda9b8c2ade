// Numbers as text, for the records of a monitor: what Python's "%.7g" gives, many times faster.
#pragma once

#include <charconv>
#include <cmath>
#include <string>

namespace layerpace {

#ifdef __cpp_lib_to_chars
#define LP_HAS_NUMBERS

constexpr int DIGITS = 7;

// Numbers of JSON between commas; nan is null, infinity a number that is read as infinity.
inline std::string format_numbers(const double *x, size_t n) {
  std::string out;
  out.reserve(n * 12);
  for (size_t i = 0; i < n; ++i) {
    if (i) out += ',';
    if (std::isnan(x[i])) {
      out += "null";
    } else if (std::isinf(x[i])) {
      out += x[i] < 0 ? "-1e999" : "1e999";
    } else {
      char text[32];
      out.append(text, std::to_chars(text, text + sizeof text, x[i], std::chars_format::general, DIGITS).ptr);
    }
  }
  return out;
}
#endif

}  // namespace layerpace
