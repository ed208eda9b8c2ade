// What monitors read, in the order of layerpace.columns.MEASURED: <w, w>, |w|_1, <g, g>, <d, d>, <w, d>, |d|_1, with w
// the weights before a step and d what was subtracted from them.
//
// In a layer so large that the roundings of its entries average out (to less than 1e-8), sums of floats are taken as
// floats within a block, at most sixteen terms a lane, and in double from block to block; else all is double.
#pragma once

#include "../job.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

struct MeasuredLanes {
  alignas(64) double lane[MEASURED_COUNT][LANES];
};

// The bits of numbers that are not negative are in the order of the numbers; nan comes last.
LP_INLINE bool float_holds(const Vec<float> &squares) {
  alignas(64) int32_t bits[LANES];
  float lanes[LANES];
  store(lanes, squares);
  __builtin_memcpy(bits, lanes, sizeof bits);
  int32_t largest = 0;
  for (int i = 0; i < LANES; ++i) largest = bits[i] > largest ? bits[i] : largest;
  return largest > 0x0da24260 && largest < 0x7149f2ca;  // 1e-30, 1e30
}
LP_INLINE bool float_holds(const Vec<double> &) { return true; }

template <class T>
void measure_moves_precisely(int64_t n, const T *old, const T *now, MeasuredLanes &lanes) {
  Sum ww = load(lanes.lane[M_WW]), dd = load(lanes.lane[M_DD]), wd = load(lanes.lane[M_WD]);
  Sum w_l1 = load(lanes.lane[M_W_L1]), d_l1 = load(lanes.lane[M_D_L1]);
  for (int64_t i = 0; i < n; i += LANES) {
    const Sum w = widen(load(old + i)), d = w - widen(load(now + i));
    w_l1 = w_l1 + abs(w), d_l1 = d_l1 + abs(d);
    ww = ww + w * w, dd = dd + d * d, wd = wd + w * d;
  }
  store(lanes.lane[M_WW], ww), store(lanes.lane[M_DD], dd), store(lanes.lane[M_WD], wd);
  store(lanes.lane[M_W_L1], w_l1), store(lanes.lane[M_D_L1], d_l1);
}

// The sums of a block as an update goes over it. d is scaled, so that the square of a tiny one is not lost: exact for
// |d| between 1e-26 and 1e12.
template <class T>
class Moves {
  using V = Vec<T>;
  static constexpr double SCALE = 0x1p24;

 public:
  LP_INLINE_METHOD Moves() : scale_(all<T>(SCALE)), ww_(all<T>(0.0)), dd_(ww_), wd_(ww_), w_l1_(ww_), d_l1_(ww_) {}

  LP_INLINE_METHOD void add(const V &w, const V &now) {
    const V d = (w - now) * scale_;
    w_l1_ = w_l1_ + abs(w), d_l1_ = d_l1_ + abs(d);
    ww_ = ww_ + w * w, dd_ = dd_ + d * d, wd_ = wd_ + w * d;
  }

  LP_INLINE_METHOD void add_to(MeasuredLanes &lanes) const {
    auto put = [&](int column, const V &sum, double factor) {
      store(lanes.lane[column], load(lanes.lane[column]) + widen(sum) * all<double>(factor));
    };
    put(M_WW, ww_, 1), put(M_W_L1, w_l1_, 1);
    put(M_DD, dd_, 1 / (SCALE * SCALE)), put(M_WD, wd_, 1 / SCALE), put(M_D_L1, d_l1_, 1 / SCALE);
  }

 private:
  const V scale_;
  V ww_, dd_, wd_, w_l1_, d_l1_;
};

// n is a multiple of LANES, at most sixteen of them; `large` is said of the whole layer.
template <class T>
void measure_moves(int64_t n, const T *old, const T *now, bool large, MeasuredLanes &lanes) {
  if (sizeof(T) == 8 || !large) return measure_moves_precisely(n, old, now, lanes);
  Moves<T> moves;
  for (int64_t i = 0; i < n; i += LANES) moves.add(load(old + i), load(now + i));
  moves.add_to(lanes);
}

template <class T>
void measure_squares_precisely(int64_t n, const T *g, MeasuredLanes &lanes) {
  Sum gg = load(lanes.lane[M_GG]);
  for (int64_t i = 0; i < n; i += LANES) {
    const Sum wide = widen(load(g + i));
    gg = add_products<T>(wide, wide, gg);
  }
  store(lanes.lane[M_GG], gg);
}

template <class T>
void measure_squares(int64_t n, const T *g, bool large, MeasuredLanes &lanes) {
  if (sizeof(T) == 8 || !large) return measure_squares_precisely(n, g, lanes);
  // Four sums, since one would wait for each of its additions.
  Vec<T> part[4] = {all<T>(0.0), all<T>(0.0), all<T>(0.0), all<T>(0.0)};
  for (int64_t i = 0; i < n; i += 4 * LANES) {
    for (int j = 0; j < 4; ++j) {
      if (i + j * LANES < n) {
        const Vec<T> x = load(g + i + j * LANES);
        part[j] = part[j] + x * x;
      }
    }
  }
  const Vec<T> gg = (part[0] + part[1]) + (part[2] + part[3]);
  if (!float_holds(gg)) return measure_squares_precisely(n, g, lanes);
  store(lanes.lane[M_GG], load(lanes.lane[M_GG]) + widen(gg));
}

}  // namespace layerpace::LP_ISA
