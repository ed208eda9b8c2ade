// Updates: w, u -> w, with d = c*w + b*u taken directly or through a velocity.
#pragma once

#include "../job.hpp"
#include "ahead.hpp"
#include "pack.hpp"

namespace layerpace::LP_ISA {

// w <- w - d
struct Displace {
  static constexpr bool velocity = false;
  template <class V>
  LP_INLINE V move(const V &d, V &, const V &, const V &, const V &) {
    return d;
  }
};

// v <- mu*v + keep*d;  w <- w - lr*v, where keep = 1 - dampening, and lr = 1 if the velocity has it inside
struct HeavyVelocity {
  static constexpr bool velocity = true;
  template <class V>
  LP_INLINE V move(const V &d, V &v, const V &mu, const V &keep, const V &lr) {
    v = v * mu + d * keep;
    return v * lr;
  }
};

// v <- mu*v + keep*d;  w <- w - lr*(mu*v + d)
struct NesterovVelocity {
  static constexpr bool velocity = true;
  template <class V>
  LP_INLINE V move(const V &d, V &v, const V &mu, const V &keep, const V &lr) {
    v = v * mu + d * keep;
    return (v * mu + d) * lr;
  }
};

template <class T, class Policy>
void run_update(int64_t n, const T *w, T *out, const T *u, T *v, const Coefficients &at, double momentum,
                double kept, const Ahead &ahead) {
  using V = Vec<T>;
  const V c = all<T>(at.c), b = all<T>(at.b), lr = all<T>(at.lr), mu = all<T>(momentum), keep = all<T>(kept);
  for (int64_t i = 0; i < n; i += LANES) {
    ahead.w.fetch(i);
    ahead.u.fetch(i);
    const V weight = load(w + i);
    const V d = load(u + i) * b + weight * c;
    V velocity;
    if constexpr (Policy::velocity) {
      ahead.v.fetch(i);
      velocity = load(v + i);
    }
    const V step = Policy::move(d, velocity, mu, keep, lr);
    if constexpr (Policy::velocity) store(v + i, velocity);
    store(out + i, weight - step);
  }
}

// In the order of UpdateId in job.hpp.
template <class T>
inline constexpr void (*UPDATES[])(int64_t, const T *, T *, const T *, T *, const Coefficients &, double, double,
                                           const Ahead &) = {
    run_update<T, Displace>,
    run_update<T, HeavyVelocity>,
    run_update<T, NesterovVelocity>,
};

}  // namespace layerpace::LP_ISA
