// What monitors read, in the order of layerpace.columns.MEASURED: <w, w>, |w|_1, <g, g>, <d, d>, <w, d>, |d|_1, with w
// the weights before a step and d what was subtracted from them.
//
// In a layer so large that the roundings of its entries average out, sums of floats are taken as floats: those of a block,
// sixteen terms a lane, and of sixteen blocks; in double from there on. In smaller layers all is double. g and d are
// scaled then, so that the squares of tiny ones are not lost: right for magnitudes between 1e-22 and 1e14.
#pragma once

#include "../job.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

constexpr int BLOCKS_IN_FLOATS = 16;

template <class T>
struct MeasuredLanes {
  alignas(64) double wide[MEASURED_COUNT][LANES];
  alignas(64) T narrow[MEASURED_COUNT][LANES];  // of the last blocks, g and d scaled

  static constexpr double SCALE = 0x1p12;

  void clear() {
    for (auto &lane : wide) store(lane, all<double>(0.0));
    for (auto &lane : narrow) store(lane, all<T>(0.0));
  }

  // Adds the narrow sums to the wide ones.
  void widen_all() {
    constexpr double once = 1 / SCALE, twice = once * once;
    const double factors[MEASURED_COUNT] = {1, 1, twice, twice, once, once};
    for (int column = 0; column < MEASURED_COUNT; ++column) {
      store(wide[column], load(wide[column]) + widen(load(narrow[column])) * all<double>(factors[column]));
      store(narrow[column], all<T>(0.0));
    }
  }
};

// The sums of the moves of a block as an update goes over it.
template <class T>
class Moves {
  using V = Vec<T>;
  using Lanes = MeasuredLanes<T>;

 public:
  LP_INLINE_METHOD Moves()
      : scale_(all<T>(Lanes::SCALE)), ww_(all<T>(0.0)), dd_(ww_), wd_(ww_), w_l1_(ww_), d_l1_(ww_) {}

  LP_INLINE_METHOD void add(const V &w, const V &now) {
    const V d = (w - now) * scale_;
    w_l1_ = w_l1_ + abs(w), d_l1_ = d_l1_ + abs(d);
    ww_ = ww_ + w * w, dd_ = dd_ + d * d, wd_ = wd_ + w * d;
  }

  LP_INLINE_METHOD void add_to(Lanes &lanes) const {
    auto put = [&](int column, const V &sum) { store(lanes.narrow[column], load(lanes.narrow[column]) + sum); };
    put(M_WW, ww_), put(M_DD, dd_), put(M_WD, wd_), put(M_W_L1, w_l1_), put(M_D_L1, d_l1_);
  }

 private:
  const V scale_;
  V ww_, dd_, wd_, w_l1_, d_l1_;
};

// n is a multiple of LANES; `large` is said of the whole layer.
template <class T>
void measure_moves(int64_t n, const T *old, const T *now, bool large, MeasuredLanes<T> &lanes) {
  if (sizeof(T) == 4 && large) {
    Moves<T> moves;
    for (int64_t i = 0; i < n; i += LANES) moves.add(load(old + i), load(now + i));
    moves.add_to(lanes);
    return;
  }
  Sum ww = load(lanes.wide[M_WW]), dd = load(lanes.wide[M_DD]), wd = load(lanes.wide[M_WD]);
  Sum w_l1 = load(lanes.wide[M_W_L1]), d_l1 = load(lanes.wide[M_D_L1]);
  for (int64_t i = 0; i < n; i += LANES) {
    const Sum w = widen(load(old + i)), d = w - widen(load(now + i));
    w_l1 = w_l1 + abs(w), d_l1 = d_l1 + abs(d);
    ww = ww + w * w, dd = dd + d * d, wd = wd + w * d;
  }
  store(lanes.wide[M_WW], ww), store(lanes.wide[M_DD], dd), store(lanes.wide[M_WD], wd);
  store(lanes.wide[M_W_L1], w_l1), store(lanes.wide[M_D_L1], d_l1);
}

template <class T>
void measure_squares(int64_t n, const T *g, bool large, MeasuredLanes<T> &lanes) {
  if (sizeof(T) == 8 || !large) {
    Sum gg = load(lanes.wide[M_GG]);
    for (int64_t i = 0; i < n; i += LANES) {
      const Sum wide = widen(load(g + i));
      gg = add_products<T>(wide, wide, gg);
    }
    store(lanes.wide[M_GG], gg);
    return;
  }
  // Four sums, since one would wait for each of its additions.
  const Vec<T> scale = all<T>(MeasuredLanes<T>::SCALE);
  Vec<T> part[4] = {all<T>(0.0), all<T>(0.0), all<T>(0.0), all<T>(0.0)};
  for (int64_t i = 0; i < n; i += 4 * LANES) {
    for (int j = 0; j < 4; ++j) {
      if (i + j * LANES < n) {
        const Vec<T> x = load(g + i + j * LANES) * scale;
        part[j] = part[j] + x * x;
      }
    }
  }
  store(lanes.narrow[M_GG], load(lanes.narrow[M_GG]) + ((part[0] + part[1]) + (part[2] + part[3])));
}

}  // namespace layerpace::LP_ISA
