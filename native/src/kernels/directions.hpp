// Directions: g, state -> u; the equations of layerpace.directions, in their order.
//
// A policy has up to three moments s. `first` advances them and returns u; `again` returns the same u from what `first`
// left, so that the second pass over a layer needs no memory for u. `prepare` turns the options and the number of the
// step, t, into the constants of the loop; it runs once a layer. Where a denominator is written as
// sqrt(v + inside) + outside, one of both is eps and the other zero, which changes no bit.
//
// Products and quotients stand in an order in which no number is lost that torch keeps: (1 - beta)*g*g and not g*g first,
// which is inf for a g of 1e20; the bias correction of v after its root, and of m after the quotient.
#pragma once

#include "pack.hpp"

namespace layerpace::LP_ISA {

constexpr int MAX_CONSTANTS = 8;

// What a policy says of itself; a policy overrides what differs.
struct Defaults {
  static constexpr int states = 0;
  static constexpr bool again_reads_gradient = false;
  static constexpr unsigned again_reads = 0;   // a bit a moment
  static constexpr unsigned again_writes = 0;  // likewise
};

struct SGD : Defaults {
  static constexpr bool again_reads_gradient = true;
  static void prepare(const double *, double, double *, double *) {}
  template <class V>
  LP_INLINE V first(const V &g, V *, const V *) {
    return g;
  }
  template <class V>
  LP_INLINE V again(const V &g, V *, const V *) {
    return g;
  }
};

struct HeavyBall : Defaults {
  static constexpr int states = 1;
  static constexpr unsigned again_reads = 1;
  static void prepare(const double *option, double t, double *, double *k) {
    double momentum = option[0], dampening = option[1];
    bool whole = t == 1 && dampening != 0;  // the first gradient enters whole
    k[0] = whole ? 0.0 : momentum;
    k[1] = whole ? 1.0 : 1.0 - dampening;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    return s[0] = s[0] * k[0] + g * k[1];
  }
  template <class V>
  LP_INLINE V again(const V &, V *s, const V *) {
    return s[0];
  }
};

struct Nesterov : Defaults {
  static constexpr int states = 1;
  static constexpr bool again_reads_gradient = true;
  static constexpr unsigned again_reads = 1;
  static void prepare(const double *option, double, double *, double *k) { k[0] = option[0]; }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g;
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &g, V *s, const V *k) {
    return s[0] * k[0] + g;
  }
};

struct EMAMomentum : Defaults {
  static constexpr int states = 1;
  static constexpr unsigned again_reads = 1;
  static void prepare(const double *option, double, double *, double *k) { k[0] = option[0], k[1] = 1.0 - option[0]; }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    return s[0] = s[0] * k[0] + g * k[1];
  }
  template <class V>
  LP_INLINE V again(const V &, V *s, const V *) {
    return s[0];
  }
};

struct AdaGrad : Defaults {
  static constexpr int states = 1;
  static constexpr bool again_reads_gradient = true;
  static constexpr unsigned again_reads = 1;
  static void prepare(const double *option, double t, double *, double *k) {
    double lr_decay = option[0], eps = option[1];
    bool inside = option[2] != 0;
    k[0] = inside ? eps : 0.0;
    k[1] = inside ? 0.0 : eps;
    k[2] = 1.0 + (t - 1) * lr_decay;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] + g * g;
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &g, V *s, const V *k) {
    return g / (sqrt(s[0] + k[0]) + k[1]) / k[2];
  }
};

struct AdaDelta : Defaults {
  static constexpr int states = 2;
  static constexpr bool again_reads_gradient = true;
  static constexpr unsigned again_reads = 3;
  static constexpr unsigned again_writes = 2;  // d, which u is made of, waits for the second pass
  static void prepare(const double *option, double, double *, double *k) {
    k[0] = option[0], k[1] = 1.0 - option[0], k[2] = option[1];
  }
  template <class V>
  LP_INLINE V direction(const V &g, V *s, const V *k) {
    return sqrt(s[1] + k[2]) / sqrt(s[0] + k[2]) * g;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1] * g;
    return direction(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &g, V *s, const V *k) {
    V u = direction(g, s, k);
    s[1] = s[1] * k[0] + u * k[1] * u;
    return u;
  }
};

template <bool Centered, bool Momentum>
struct RMSProp : Defaults {
  static constexpr int states = 1 + Centered + Momentum;
  static constexpr bool again_reads_gradient = !Momentum;
  static constexpr unsigned again_reads = Momentum ? 1u << (1 + Centered) : Centered ? 3u : 1u;
  static void prepare(const double *option, double, double *, double *k) {
    double alpha = option[0], eps = option[1], momentum = option[2];
    bool inside = option[3] != 0;
    k[0] = alpha, k[1] = 1.0 - alpha;
    k[2] = inside ? eps : 0.0;
    k[3] = inside ? 0.0 : eps;
    k[4] = momentum;
  }
  template <class V>
  LP_INLINE V scaled(const V &g, V *s, const V *k) {
    V v = s[0];
    if constexpr (Centered) {
      // Rounding may leave less than nothing of a variance, and inf - inf of one beyond the range.
      const V variance = v - s[1] * s[1];
      v = where_nan(variance, v, pack_larger(variance, all<typename Loader<V>::T>(0.0)));
    }
    return g / (sqrt(v + k[2]) + k[3]);
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1] * g;
    if constexpr (Centered) s[1] = s[1] * k[0] + g * k[1];
    V u = scaled(g, s, k);
    if constexpr (Momentum) u = s[1 + Centered] = s[1 + Centered] * k[4] + u;
    return u;
  }
  template <class V>
  LP_INLINE V again(const V &g, V *s, const V *k) {
    if constexpr (Momentum) {
      return s[1 + Centered];
    } else {
      return scaled(g, s, k);
    }
  }
};

template <bool Largest>  // AMSGrad: the second moment never falls
struct Adam : Defaults {
  static constexpr int states = 2 + Largest;
  static constexpr unsigned again_reads = Largest ? 5 : 3;
  static void prepare(const double *option, double t, double *, double *k) {
    double beta1 = option[0], beta2 = option[1], eps = option[2];
    bool correct = option[3] != 0, average = option[4] != 0, inside = option[5] != 0;
    k[0] = beta1, k[1] = average ? 1.0 - beta1 : 1.0;
    k[2] = beta2, k[3] = 1.0 - beta2;
    const double of_v = correct ? 1.0 - __builtin_pow(beta2, t) : 1.0;
    k[4] = correct ? 1.0 / (1.0 - __builtin_pow(beta1, t)) : 1.0;
    k[5] = 1.0 / __builtin_sqrt(of_v);
    k[6] = inside ? eps * of_v : 0.0;
    k[7] = inside ? 0.0 : eps;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1];
    s[1] = s[1] * k[2] + g * k[3] * g;
    if constexpr (Largest) s[2] = maximum(s[2], s[1]);
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &, V *s, const V *k) {
    return s[0] / (sqrt(s[Largest ? 2 : 1] + k[6]) * k[5] + k[7]) * k[4];
  }
};

struct AdaMax : Defaults {
  static constexpr int states = 2;
  static constexpr unsigned again_reads = 3;
  static void prepare(const double *option, double t, double *, double *k) {
    k[0] = option[0], k[1] = 1.0 - option[0], k[2] = option[1], k[3] = option[2];
    k[4] = 1.0 / (1.0 - __builtin_pow(option[0], t));
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1];
    s[1] = maximum(s[1] * k[2], abs(g) + k[3]);
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &, V *s, const V *k) {
    return s[0] * k[4] / s[1];
  }
};

struct NAdam : Defaults {
  static constexpr int states = 2;
  static constexpr bool again_reads_gradient = true;
  static constexpr unsigned again_reads = 3;
  // memory: the product of mu_1 ... mu_t.
  static void prepare(const double *option, double t, double *memory, double *k) {
    double beta1 = option[0], beta2 = option[1], eps = option[2], psi = option[3];
    double mu = beta1 * (1.0 - 0.5 * __builtin_pow(0.96, t * psi));
    double next = beta1 * (1.0 - 0.5 * __builtin_pow(0.96, (t + 1) * psi));
    double product = *memory *= mu;
    k[0] = beta1, k[1] = 1.0 - beta1, k[2] = beta2, k[3] = 1.0 - beta2;
    k[4] = (1.0 - mu) / (1.0 - product);
    k[5] = next / (1.0 - product * next);
    k[6] = 1.0 / __builtin_sqrt(1.0 - __builtin_pow(beta2, t));
    k[7] = eps;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1];
    s[1] = s[1] * k[2] + g * k[3] * g;
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &g, V *s, const V *k) {
    return (g * k[4] + s[0] * k[5]) / (sqrt(s[1]) * k[6] + k[7]);
  }
};

struct RAdam : Defaults {
  static constexpr int states = 2;
  static constexpr unsigned again_reads = 3;
  static void prepare(const double *option, double t, double *, double *k) {
    double beta1 = option[0], beta2 = option[1], eps = option[2], threshold = option[3];
    double decay = __builtin_pow(beta2, t), end = 2.0 / (1.0 - beta2) - 1.0;
    double rho = end - 2.0 * t * decay / (1.0 - decay);
    bool adaptive = rho > threshold;
    double r = (rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho);
    k[0] = beta1, k[1] = 1.0 - beta1, k[2] = beta2, k[3] = 1.0 - beta2;
    k[4] = 1.0 / (1.0 - __builtin_pow(beta1, t));
    if (adaptive) k[4] *= __builtin_sqrt(__builtin_fmax(r, 0.0)) * __builtin_sqrt(1.0 - decay);
    k[5] = adaptive;
    k[6] = eps;
  }
  template <class V>
  LP_INLINE V first(const V &g, V *s, const V *k) {
    s[0] = s[0] * k[0] + g * k[1];
    s[1] = s[1] * k[2] + g * k[3] * g;
    return again(g, s, k);
  }
  template <class V>
  LP_INLINE V again(const V &, V *s, const V *k) {
    V u = s[0] * k[4];
    return where_zero(k[5], u, u / (sqrt(s[1]) + k[6]));
  }
};

}  // namespace layerpace::LP_ISA
