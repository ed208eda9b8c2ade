// The loops: a direction with the columns of its sums, or with an update. n is a multiple of LANES; every pointer is to
// the user's memory or to a buffer.
#pragma once

#include "ahead.hpp"
#include "columns.hpp"
#include "directions.hpp"
#include "measure.hpp"
#include "updates.hpp"

namespace layerpace::LP_ISA {

// What the loops read and write; which of it, is theirs to know.
template <class T>
struct Operands {
  const T *w = nullptr, *g = nullptr;
  T *s[MAX_STATES] = {};
  T *v = nullptr, *u = nullptr, *out = nullptr;  // out: the new weights
  const double *constants = nullptr;             // of the direction
};

template <class T, class Policy>
class Moments {
  using V = Vec<T>;
  static constexpr unsigned all_states = (1u << Policy::states) - 1;

 public:
  LP_INLINE_METHOD explicit Moments(const double *constants) {
    for (int j = 0; j < MAX_CONSTANTS; ++j) k_[j] = all<T>(constants[j]);
  }

  // u of the entries from i on; advances the moments, all of them if `finish`.
  LP_INLINE_METHOD V first(const Operands<T> &at, const Ahead &ahead, int64_t i, bool finish) const {
    V moment[MAX_STATES];
    read<all_states>(at, ahead, i, moment);
    ahead.g.fetch(i);
    const V g = load(at.g + i);
    V u = Policy::first(g, moment, k_);
    write<all_states & ~Policy::again_writes>(at, i, moment);
    if constexpr (Policy::again_writes != 0) {
      if (finish) {
        u = Policy::again(g, moment, k_);
        write<Policy::again_writes>(at, i, moment);
      }
    }
    return u;
  }

  LP_INLINE_METHOD V again(const Operands<T> &at, const Ahead &ahead, int64_t i) const {
    V moment[MAX_STATES], g;
    read<Policy::again_reads>(at, ahead, i, moment);
    if constexpr (Policy::again_reads_gradient) {
      ahead.g.fetch(i);
      g = load(at.g + i);
    }
    const V u = Policy::again(g, moment, k_);
    write<Policy::again_writes>(at, i, moment);
    return u;
  }

 private:
  template <unsigned Which>
  LP_INLINE_METHOD void read(const Operands<T> &at, const Ahead &ahead, int64_t i, V *moment) const {
    for (int j = 0; j < Policy::states; ++j) {
      if (Which >> j & 1) {
        ahead.s[j].fetch(i);
        moment[j] = load(at.s[j] + i);
      }
    }
  }
  template <unsigned Which>
  LP_INLINE_METHOD void write(const Operands<T> &at, int64_t i, const V *moment) const {
    for (int j = 0; j < Policy::states; ++j) {
      if (Which >> j & 1) store(at.s[j] + i, moment[j]);
    }
  }

  V k_[MAX_CONSTANTS];
};

// Pass 1: advance the direction and add up the columns; u is written if there is room for it.
template <class T, class Policy, unsigned Columns>
void first_loop(int64_t n, const Operands<T> &operands, double eps, double floor, bool finish, const Ahead &reach,
                Lanes &lanes) {
  const Operands<T> at = operands;  // copies, which no store of the loop can change
  const Ahead ahead = reach;
  const Moments<T, Policy> moments(at.constants);
  Sums<T, Columns> sums(lanes, eps, floor);
  for (int64_t i = 0; i < n; i += LANES) {
    const Vec<T> u = moments.first(at, ahead, i, finish);
    Vec<T> weight;
    if constexpr (Sums<T, Columns>::reads_weights) {
      ahead.w.fetch(i);
      weight = load(at.w + i);
    }
    sums.add(weight, u);
    if (at.u) store(at.u + i, u);
  }
  sums.store_to(lanes);
}

// Where the u of an update comes from: the first pass, the second, or memory.
enum class Source { first, again, memory };

// An update, with the u of pass 2 or, where one pass is enough, with that of the first.
template <class T, class Policy, class Update, Source source, bool measured>
void update_loop(int64_t n, const Operands<T> &operands, const Coefficients &coefficients, double momentum,
                 double keep, const Ahead &reach, MeasuredLanes<T> &lanes) {
  const Operands<T> at = operands;
  const Ahead ahead = reach;
  const Moments<T, Policy> moments(at.constants);
  const UpdateNumbers<T> numbers(coefficients, momentum, keep);
  Moves<T> moves;
  for (int64_t i = 0; i < n; i += LANES) {
    Vec<T> u;
    if constexpr (source == Source::first) u = moments.first(at, ahead, i, true);
    if constexpr (source == Source::again) u = moments.again(at, ahead, i);
    if constexpr (source == Source::memory) {
      ahead.u.fetch(i);
      u = load(at.u + i);
    }
    ahead.w.fetch(i);
    const Vec<T> weight = load(at.w + i);
    Vec<T> v;
    if constexpr (Update::velocity) {
      ahead.v.fetch(i);
      v = load(at.v + i);
    }
    const Vec<T> result = updated<Update, T>(weight, u, v, numbers);
    if constexpr (Update::velocity) store(at.v + i, v);
    store(at.out + i, result);
    if constexpr (measured) moves.add(weight, result);
  }
  if constexpr (measured) moves.add_to(lanes);
}

template <class T>
using First = void (*)(int64_t, const Operands<T> &, double, double, bool, const Ahead &, Lanes &);
template <class T>
using Update = void (*)(int64_t, const Operands<T> &, const Coefficients &, double, double, const Ahead &, MeasuredLanes<T> &);

constexpr int UPDATES = 3;

// In the order of UpdateId.
template <class T, class P, Source source, bool measured>
inline constexpr Update<T> updates[UPDATES] = {
    update_loop<T, P, Displace, source, measured && sizeof(T) == 4>,
    update_loop<T, P, HeavyVelocity, source, measured && sizeof(T) == 4>,
    update_loop<T, P, NesterovVelocity, source, measured && sizeof(T) == 4>,
};

// All loops of a direction.
template <class T>
struct Direction {
  First<T> first[COLUMN_SETS];
  const Update<T> *again[2], *whole[2];  // [measured][update]
  void (*prepare)(const double *options, double t, double *memory, double *constants);
  int states;
  bool again_reads_gradient;
  unsigned again_reads, again_writes;
};

template <class T, class P>
constexpr Direction<T> direction() {
  return {{first_loop<T, P, NO_COLUMNS>, first_loop<T, P, NORMS>, first_loop<T, P, INNER>, first_loop<T, P, L1>,
           first_loop<T, P, ALL_NORMS>, first_loop<T, P, SHARES>},
          {updates<T, P, Source::again, false>, updates<T, P, Source::again, true>},
          {updates<T, P, Source::first, false>, updates<T, P, Source::first, true>},
          P::prepare,
          P::states,
          P::again_reads_gradient,
          P::again_reads,
          P::again_writes};
}

// In the order of DirectionId in job.hpp.
template <class T>
inline constexpr Direction<T> DIRECTIONS[] = {
    direction<T, SGD>(),
    direction<T, HeavyBall>(),
    direction<T, Nesterov>(),
    direction<T, EMAMomentum>(),
    direction<T, AdaGrad>(),
    direction<T, AdaDelta>(),
    direction<T, RMSProp<false, false>>(),
    direction<T, RMSProp<true, false>>(),
    direction<T, RMSProp<false, true>>(),
    direction<T, RMSProp<true, true>>(),
    direction<T, Adam<false>>(),
    direction<T, Adam<true>>(),
    direction<T, AdaMax>(),
    direction<T, NAdam>(),
    direction<T, RAdam>(),
};

// With a u that is there: [measured, update].
template <class T>
inline constexpr const Update<T> *WITH_U[] = {updates<T, SGD, Source::memory, false>,
                                              updates<T, SGD, Source::memory, true>};

}  // namespace layerpace::LP_ISA
