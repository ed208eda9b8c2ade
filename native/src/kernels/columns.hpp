// The sums over a layer, in double precision and sixteen lanes; the columns of layerpace.columns.
#pragma once

#include "../job.hpp"
#include "ahead.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

// Sixteen lanes of every column.
struct Lanes {
  alignas(64) double lane[COLUMN_COUNT][LANES];
};

template <class T, unsigned Columns>
void sum_columns(int64_t n, const T *w, const T *u, double eps, double floor, const Ahead &ahead,
                 Lanes &lanes) {
  using V = Vec<T>;
  constexpr auto wants = [](Column column) { return (Columns >> column & 1) != 0; };
  constexpr bool reads_w = (Columns & WEIGHT_COLUMNS) != 0;
  // 0/0 is a weight of zero that asks for no change: it adds nothing. Another divisor cannot be zero.
  constexpr double tiny = sizeof(T) == 4 ? 1.17549435082228751e-38 : 2.2250738585072014e-308;
  const bool guard_eps = eps < tiny, guard_floor = floor < tiny;
  const V zero = all<T>(0.0), one = all<T>(1.0), v_eps = all<T>(eps), v_floor = all<T>(floor);
  // Variables of their own: compilers keep an array in memory, and then every addition waits for a store.
  Sum ww = load(lanes.lane[WW]), uu = load(lanes.lane[UU]), wu = load(lanes.lane[WU]);
  Sum w_l1 = load(lanes.lane[W_L1]), u_l1 = load(lanes.lane[U_L1]);
  Sum over_w = load(lanes.lane[U_OVER_W_L1]), over_floor = load(lanes.lane[U_OVER_FLOOR_L1]);
  Sum nonfinite = load(lanes.lane[NONFINITE]);
  for (int64_t i = 0; i < n; i += LANES) {
    V weight;
    if constexpr (reads_w) {
      ahead.w.fetch(i);
      weight = load(w + i);
    }
    ahead.u.fetch(i);
    const V update = load(u + i);
    if constexpr (wants(WW) || wants(WU) || wants(UU)) {
      Sum wide_u;
      if constexpr (wants(UU) || wants(WU)) wide_u = widen(update);
      if constexpr (wants(UU)) uu = add_products<T>(wide_u, wide_u, uu);
      if constexpr (wants(WW) || wants(WU)) {
        const Sum wide_w = widen(weight);
        if constexpr (wants(WW)) ww = add_products<T>(wide_w, wide_w, ww);
        if constexpr (wants(WU)) wu = add_products<T>(wide_w, wide_u, wu);
      }
    }
    if constexpr (wants(W_L1)) w_l1 = w_l1 + widen(abs(weight));
    if constexpr (wants(U_L1)) u_l1 = u_l1 + widen(abs(update));
    if constexpr (wants(U_OVER_W_L1)) {
      V quotient = abs(update / (abs(weight) + v_eps));
      if (guard_eps) quotient = where_zero(update, zero, quotient);
      over_w = over_w + widen(quotient);
    }
    if constexpr (wants(U_OVER_FLOOR_L1)) {
      V quotient = abs(update / maximum(abs(weight), v_floor));
      if (guard_floor) quotient = where_zero(update, zero, quotient);
      over_floor = over_floor + widen(quotient);
    }
    if constexpr (wants(NONFINITE)) nonfinite = nonfinite + widen(where_nan(update - update, one, zero));
  }
  if constexpr (wants(WW)) store(lanes.lane[WW], ww);
  if constexpr (wants(UU)) store(lanes.lane[UU], uu);
  if constexpr (wants(WU)) store(lanes.lane[WU], wu);
  if constexpr (wants(W_L1)) store(lanes.lane[W_L1], w_l1);
  if constexpr (wants(U_L1)) store(lanes.lane[U_L1], u_l1);
  if constexpr (wants(U_OVER_W_L1)) store(lanes.lane[U_OVER_W_L1], over_w);
  if constexpr (wants(U_OVER_FLOOR_L1)) store(lanes.lane[U_OVER_FLOOR_L1], over_floor);
  if constexpr (wants(NONFINITE)) store(lanes.lane[NONFINITE], nonfinite);
}

// The sets that rules ask for have a loop of their own; any other set takes a loop a column.
template <class T>
void sum_any(unsigned columns, int64_t n, const T *w, const T *u, double eps, double floor, const Ahead &ahead,
             Lanes &lanes) {
  constexpr unsigned norms = 1u << WW | 1u << UU, inner = norms | 1u << WU, l1 = 1u << W_L1 | 1u << U_L1;
  constexpr unsigned shares = 1u << WW | 1u << U_OVER_W_L1 | 1u << U_OVER_FLOOR_L1;
  switch (columns) {
    case norms: return sum_columns<T, norms>(n, w, u, eps, floor, ahead, lanes);
    case inner: return sum_columns<T, inner>(n, w, u, eps, floor, ahead, lanes);
    case l1: return sum_columns<T, l1>(n, w, u, eps, floor, ahead, lanes);
    case shares: return sum_columns<T, shares>(n, w, u, eps, floor, ahead, lanes);
    case inner | l1: return sum_columns<T, inner | l1>(n, w, u, eps, floor, ahead, lanes);
    default: break;
  }
  if (columns >> WW & 1) sum_columns<T, 1u << WW>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> UU & 1) sum_columns<T, 1u << UU>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> WU & 1) sum_columns<T, 1u << WU>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> W_L1 & 1) sum_columns<T, 1u << W_L1>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> U_L1 & 1) sum_columns<T, 1u << U_L1>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> U_OVER_W_L1 & 1) sum_columns<T, 1u << U_OVER_W_L1>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> U_OVER_FLOOR_L1 & 1) sum_columns<T, 1u << U_OVER_FLOOR_L1>(n, w, u, eps, floor, ahead, lanes);
  if (columns >> NONFINITE & 1) sum_columns<T, 1u << NONFINITE>(n, w, u, eps, floor, ahead, lanes);
}

}  // namespace layerpace::LP_ISA
