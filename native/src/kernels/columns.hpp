// The sums over a layer, in double precision and sixteen lanes; the columns of layerpace.columns.
#pragma once

#include "../job.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

// Sixteen lanes of every column.
struct Lanes {
  alignas(64) double lane[COLUMN_COUNT][LANES];
};

template <class T, unsigned Columns>
void sum_columns(int64_t n, const T *w, const T *u, double eps, double floor, Lanes &lanes) {
  using V = Vec<T>;
  constexpr auto wants = [](Column column) { return (Columns >> column & 1) != 0; };
  constexpr bool reads_w = (Columns & WEIGHT_COLUMNS) != 0;
  // 0/0 is a weight of zero that asks for no change: it adds nothing. Another divisor cannot be zero.
  constexpr double tiny = sizeof(T) == 4 ? 1.17549435082228751e-38 : 2.2250738585072014e-308;
  const bool guard_eps = eps < tiny, guard_floor = floor < tiny;
  const V zero = all<T>(0.0), one = all<T>(1.0), v_eps = all<T>(eps), v_floor = all<T>(floor);
  Sum sum[COLUMN_COUNT];
  for (int j = 0; j < COLUMN_COUNT; ++j) {
    if (Columns >> j & 1) sum[j] = load(lanes.lane[j]);
  }
  for (int64_t i = 0; i < n; i += LANES) {
    V weight;
    if constexpr (reads_w) {
      __builtin_prefetch(w + i + 256);
      weight = load(w + i);
    }
    __builtin_prefetch(u + i + 256);
    const V update = load(u + i);
    if constexpr (wants(WW) || wants(WU) || wants(UU)) {
      Sum wide_u;
      if constexpr (wants(UU) || wants(WU)) wide_u = widen(update);
      if constexpr (wants(UU)) sum[UU] = sum[UU] + wide_u * wide_u;
      if constexpr (wants(WW) || wants(WU)) {
        const Sum wide_w = widen(weight);
        if constexpr (wants(WW)) sum[WW] = sum[WW] + wide_w * wide_w;
        if constexpr (wants(WU)) sum[WU] = sum[WU] + wide_w * wide_u;
      }
    }
    if constexpr (wants(W_L1)) sum[W_L1] = sum[W_L1] + widen(abs(weight));
    if constexpr (wants(U_L1)) sum[U_L1] = sum[U_L1] + widen(abs(update));
    if constexpr (wants(U_OVER_W_L1)) {
      V quotient = abs(update / (abs(weight) + v_eps));
      if (guard_eps) quotient = where_zero(update, zero, quotient);
      sum[U_OVER_W_L1] = sum[U_OVER_W_L1] + widen(quotient);
    }
    if constexpr (wants(U_OVER_FLOOR_L1)) {
      V quotient = abs(update / maximum(abs(weight), v_floor));
      if (guard_floor) quotient = where_zero(update, zero, quotient);
      sum[U_OVER_FLOOR_L1] = sum[U_OVER_FLOOR_L1] + widen(quotient);
    }
    if constexpr (wants(NONFINITE)) sum[NONFINITE] = sum[NONFINITE] + widen(where_nan(update - update, one, zero));
  }
  for (int j = 0; j < COLUMN_COUNT; ++j) {
    if (Columns >> j & 1) store(lanes.lane[j], sum[j]);
  }
}

// The sets that rules ask for have a loop of their own; any other set takes a loop a column.
template <class T>
void sum_any(unsigned columns, int64_t n, const T *w, const T *u, double eps, double floor, Lanes &lanes) {
  constexpr unsigned norms = 1u << WW | 1u << UU, inner = norms | 1u << WU, l1 = 1u << W_L1 | 1u << U_L1;
  constexpr unsigned shares = 1u << WW | 1u << U_OVER_W_L1 | 1u << U_OVER_FLOOR_L1;
  switch (columns) {
    case norms: return sum_columns<T, norms>(n, w, u, eps, floor, lanes);
    case inner: return sum_columns<T, inner>(n, w, u, eps, floor, lanes);
    case l1: return sum_columns<T, l1>(n, w, u, eps, floor, lanes);
    case shares: return sum_columns<T, shares>(n, w, u, eps, floor, lanes);
    case inner | l1: return sum_columns<T, inner | l1>(n, w, u, eps, floor, lanes);
    default: break;
  }
  if (columns >> WW & 1) sum_columns<T, 1u << WW>(n, w, u, eps, floor, lanes);
  if (columns >> UU & 1) sum_columns<T, 1u << UU>(n, w, u, eps, floor, lanes);
  if (columns >> WU & 1) sum_columns<T, 1u << WU>(n, w, u, eps, floor, lanes);
  if (columns >> W_L1 & 1) sum_columns<T, 1u << W_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_L1 & 1) sum_columns<T, 1u << U_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_OVER_W_L1 & 1) sum_columns<T, 1u << U_OVER_W_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_OVER_FLOOR_L1 & 1) sum_columns<T, 1u << U_OVER_FLOOR_L1>(n, w, u, eps, floor, lanes);
  if (columns >> NONFINITE & 1) sum_columns<T, 1u << NONFINITE>(n, w, u, eps, floor, lanes);
}

}  // namespace layerpace::LP_ISA
