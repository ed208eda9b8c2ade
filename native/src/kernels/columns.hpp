// The sums over a layer, in double precision and sixteen lanes; the columns of layerpace.columns.
#pragma once

#include "../job.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

// Sixteen lanes of every column.
struct Lanes {
  alignas(64) double lane[COLUMN_COUNT][LANES];
};

// The running sums of a loop.
template <class T, unsigned Columns>
class Sums {
  using V = Vec<T>;
  static constexpr bool wants(Column column) { return (Columns >> column & 1) != 0; }

 public:
  static constexpr bool reads_weights = (Columns & WEIGHT_COLUMNS) != 0;

  LP_INLINE_METHOD Sums(const Lanes &lanes, double eps, double floor)
      : guard_eps_(eps < tiny), guard_floor_(floor < tiny), zero_(all<T>(0.0)), one_(all<T>(1.0)), eps_(all<T>(eps)),
        floor_(all<T>(floor)), ww_(load(lanes.lane[WW])), uu_(load(lanes.lane[UU])), wu_(load(lanes.lane[WU])),
        w_l1_(load(lanes.lane[W_L1])), u_l1_(load(lanes.lane[U_L1])), over_w_(load(lanes.lane[U_OVER_W_L1])),
        over_floor_(load(lanes.lane[U_OVER_FLOOR_L1])), nonfinite_(load(lanes.lane[NONFINITE])) {}

  LP_INLINE_METHOD void add(const V &weight, const V &update) {
    if constexpr (wants(WW) || wants(WU) || wants(UU)) {
      const Sum wide_u = widen(update);
      if constexpr (wants(UU)) uu_ = add_products<T>(wide_u, wide_u, uu_);
      if constexpr (wants(WW) || wants(WU)) {
        const Sum wide_w = widen(weight);
        if constexpr (wants(WW)) ww_ = add_products<T>(wide_w, wide_w, ww_);
        if constexpr (wants(WU)) wu_ = add_products<T>(wide_w, wide_u, wu_);
      }
    }
    if constexpr (wants(W_L1)) w_l1_ = w_l1_ + widen(abs(weight));
    if constexpr (wants(U_L1)) u_l1_ = u_l1_ + widen(abs(update));
    if constexpr (wants(U_OVER_W_L1)) {
      V quotient = abs(update / (abs(weight) + eps_));
      if (guard_eps_) quotient = where_zero(update, zero_, quotient);
      over_w_ = over_w_ + widen(quotient);
    }
    if constexpr (wants(U_OVER_FLOOR_L1)) {
      V quotient = abs(update / maximum(abs(weight), floor_));
      if (guard_floor_) quotient = where_zero(update, zero_, quotient);
      over_floor_ = over_floor_ + widen(quotient);
    }
    if constexpr (wants(NONFINITE)) nonfinite_ = nonfinite_ + widen(where_nan(update - update, one_, zero_));
  }

  LP_INLINE_METHOD void store_to(Lanes &lanes) const {
    if constexpr (wants(WW)) store(lanes.lane[WW], ww_);
    if constexpr (wants(UU)) store(lanes.lane[UU], uu_);
    if constexpr (wants(WU)) store(lanes.lane[WU], wu_);
    if constexpr (wants(W_L1)) store(lanes.lane[W_L1], w_l1_);
    if constexpr (wants(U_L1)) store(lanes.lane[U_L1], u_l1_);
    if constexpr (wants(U_OVER_W_L1)) store(lanes.lane[U_OVER_W_L1], over_w_);
    if constexpr (wants(U_OVER_FLOOR_L1)) store(lanes.lane[U_OVER_FLOOR_L1], over_floor_);
    if constexpr (wants(NONFINITE)) store(lanes.lane[NONFINITE], nonfinite_);
  }

 private:
  // 0/0 is a weight of zero that asks for no change: it adds nothing. Another divisor cannot be zero.
  static constexpr double tiny = sizeof(T) == 4 ? 1.17549435082228751e-38 : 2.2250738585072014e-308;
  const bool guard_eps_, guard_floor_;
  const V zero_, one_, eps_, floor_;
  // Variables of their own: compilers keep an array in memory, and then every addition waits for a store.
  Sum ww_, uu_, wu_, w_l1_, u_l1_, over_w_, over_floor_, nonfinite_;
};

// The sets of columns that rules and monitors ask for: each has loops of its own. Any other set takes a loop a column.
constexpr unsigned NO_COLUMNS = 0, NORMS = 1u << WW | 1u << UU, INNER = NORMS | 1u << WU;
constexpr unsigned L1 = 1u << W_L1 | 1u << U_L1, ALL_NORMS = INNER | L1;
constexpr unsigned SHARES = 1u << WW | 1u << U_OVER_W_L1 | 1u << U_OVER_FLOOR_L1;
constexpr int COLUMN_SETS = 6;

LP_INLINE int column_set(unsigned columns) {
  switch (columns) {
    case NO_COLUMNS: return 0;
    case NORMS: return 1;
    case INNER: return 2;
    case L1: return 3;
    case ALL_NORMS: return 4;
    case SHARES: return 5;
    default: return -1;
  }
}

template <class T, unsigned Columns>
void sum_loop(int64_t n, const T *w, const T *u, double eps, double floor, Lanes &lanes) {
  Sums<T, Columns> sums(lanes, eps, floor);
  for (int64_t i = 0; i < n; i += LANES) {
    Vec<T> weight;
    if constexpr (Sums<T, Columns>::reads_weights) weight = load(w + i);
    sums.add(weight, load(u + i));
  }
  sums.store_to(lanes);
}

// Any columns of a u that is there.
template <class T>
void sum_any(unsigned columns, int64_t n, const T *w, const T *u, double eps, double floor, Lanes &lanes) {
  if (columns >> WW & 1) sum_loop<T, 1u << WW>(n, w, u, eps, floor, lanes);
  if (columns >> UU & 1) sum_loop<T, 1u << UU>(n, w, u, eps, floor, lanes);
  if (columns >> WU & 1) sum_loop<T, 1u << WU>(n, w, u, eps, floor, lanes);
  if (columns >> W_L1 & 1) sum_loop<T, 1u << W_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_L1 & 1) sum_loop<T, 1u << U_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_OVER_W_L1 & 1) sum_loop<T, 1u << U_OVER_W_L1>(n, w, u, eps, floor, lanes);
  if (columns >> U_OVER_FLOOR_L1 & 1) sum_loop<T, 1u << U_OVER_FLOOR_L1>(n, w, u, eps, floor, lanes);
  if (columns >> NONFINITE & 1) sum_loop<T, 1u << NONFINITE>(n, w, u, eps, floor, lanes);
}

}  // namespace layerpace::LP_ISA
