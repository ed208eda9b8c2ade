// Updates: w, u -> w, with d = c*w + b*u taken directly or through a velocity.
#pragma once

#include "../job.hpp"
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

// The numbers of an update, in every lane.
template <class T>
struct UpdateNumbers {
  Vec<T> c, b, lr, momentum, keep;
  LP_INLINE_METHOD UpdateNumbers(const Coefficients &at, double momentum, double kept)
      : c(all<T>(at.c)), b(all<T>(at.b)), lr(all<T>(at.lr)), momentum(all<T>(momentum)), keep(all<T>(kept)) {}
};

// The new weights; v is advanced.
template <class Policy, class T>
LP_INLINE Vec<T> updated(const Vec<T> &weight, const Vec<T> &u, Vec<T> &v, const UpdateNumbers<T> &at) {
  const Vec<T> d = u * at.b + weight * at.c;
  return weight - Policy::move(d, v, at.momentum, at.keep, at.lr);
}

}  // namespace layerpace::LP_ISA
