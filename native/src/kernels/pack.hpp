// Sixteen numbers, in as many registers as the instruction set needs: what every kernel computes with.
//
// Sixteen lanes everywhere fix the order in which sums are taken, and so their bits.
#pragma once

#include "register.hpp"

namespace layerpace::LP_ISA {

constexpr int LANES = 16;

template <class R, int K>
struct Pack {
  Pack<R, K / 2> low, high;
};
template <class R>
struct Pack<R, 1> {
  R r;
};

template <class T>
struct RegisterOf;
template <>
struct RegisterOf<float> {
  using type = F;
};
template <>
struct RegisterOf<double> {
  using type = D;
};

template <class T>
using Vec = Pack<typename RegisterOf<T>::type, LANES / RegisterOf<T>::type::width>;
using Sum = Vec<double>;

template <class V>
struct Loader;
template <class R, int K>
struct Loader<Pack<R, K>> {
  using T = typename R::scalar;
  LP_INLINE Pack<R, K> load(const T *p) {
    return {Loader<Pack<R, K / 2>>::load(p), Loader<Pack<R, K / 2>>::load(p + K / 2 * R::width)};
  }
  LP_INLINE void store(T *p, const Pack<R, K> &x) {
    Loader<Pack<R, K / 2>>::store(p, x.low);
    Loader<Pack<R, K / 2>>::store(p + K / 2 * R::width, x.high);
  }
  LP_INLINE Pack<R, K> set(T x) {
    Pack<R, K / 2> half = Loader<Pack<R, K / 2>>::set(x);
    return {half, half};
  }
};
template <class R>
struct Loader<Pack<R, 1>> {
  using T = typename R::scalar;
  LP_INLINE Pack<R, 1> load(const T *p) { return {load_register(p, R{})}; }
  LP_INLINE void store(T *p, const Pack<R, 1> &x) { store_register(p, x.r); }
  LP_INLINE Pack<R, 1> set(T x) { return {set_register(x, R{})}; }
};

template <class T>
LP_INLINE Vec<T> load(const T *p) {
  return Loader<Vec<T>>::load(p);
}
template <class T>
LP_INLINE void store(T *p, const Vec<T> &x) {
  Loader<Vec<T>>::store(p, x);
}
template <class T>
LP_INLINE Vec<T> all(double x) {
  return Loader<Vec<T>>::set(static_cast<T>(x));
}

// Elementwise operations, by halves down to one register.
#define LP_BINARY(name, operation)                                                      \
  template <class R, int K>                                                             \
  LP_INLINE Pack<R, K> name(const Pack<R, K> &a, const Pack<R, K> &b) {                 \
    if constexpr (K == 1) {                                                             \
      return {operation(a.r, b.r)};                                                     \
    } else {                                                                            \
      return {name(a.low, b.low), name(a.high, b.high)};                                \
    }                                                                                   \
  }
LP_BINARY(operator+, add)
LP_BINARY(operator-, sub)
LP_BINARY(operator*, mul)
LP_BINARY(operator/, div)
LP_BINARY(pack_larger, larger)
#undef LP_BINARY

#define LP_UNARY(name, operation)                      \
  template <class R, int K>                            \
  LP_INLINE Pack<R, K> name(const Pack<R, K> &a) {     \
    if constexpr (K == 1) {                            \
      return {operation(a.r)};                         \
    } else {                                           \
      return {name(a.low), name(a.high)};              \
    }                                                  \
  }
LP_UNARY(sqrt, root)
LP_UNARY(abs, magnitude)
#undef LP_UNARY

#define LP_CHOICE(name, operation)                                                                \
  template <class R, int K>                                                                       \
  LP_INLINE Pack<R, K> name(const Pack<R, K> &a, const Pack<R, K> &x, const Pack<R, K> &y) {      \
    if constexpr (K == 1) {                                                                       \
      return {operation(a.r, x.r, y.r)};                                                          \
    } else {                                                                                      \
      return {name(a.low, x.low, y.low), name(a.high, x.high, y.high)};                           \
    }                                                                                             \
  }
LP_CHOICE(where_nan, if_nan)    // x where a is nan, else y
LP_CHOICE(where_zero, if_zero)  // x where a is zero, else y
#undef LP_CHOICE

// The larger of both; nan where either is, as torch.maximum.
template <class V>
LP_INLINE V maximum(const V &a, const V &b) {
  return where_nan(a, a, pack_larger(a, b));
}

LP_INLINE Sum widen(const Sum &x) { return x; }
template <int K>
LP_INLINE Pack<D, 2 * K> widen(const Pack<F, K> &x) {
  if constexpr (K == 1) {
    return {{low_half(x.r)}, {high_half(x.r)}};
  } else {
    return {widen(x.low), widen(x.high)};
  }
}

// sum + a*b, of numbers of the computation's type T.
template <class T, int K>
LP_INLINE Pack<D, K> add_products(const Pack<D, K> &a, const Pack<D, K> &b, const Pack<D, K> &sum) {
  if constexpr (sizeof(T) == 8) {
    return sum + a * b;
  } else if constexpr (K == 1) {
    return {add_product(a.r, b.r, sum.r)};
  } else {
    return {add_products<T>(a.low, b.low, sum.low), add_products<T>(a.high, b.high, sum.high)};
  }
}

// The sum of sixteen lanes, neighbours first.
LP_INLINE double total(const Sum &x) {
  double lane[LANES];
  Loader<Sum>::store(lane, x);
  for (int width = LANES / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

}  // namespace layerpace::LP_ISA
