// One vector register of the instruction set that this file is compiled for: floats F and doubles D.
//
// The same few operations for AVX-512, AVX2, SSE2, NEON, and plain C++ elsewhere. Each is exactly rounded by IEEE 754,
// none is fused, so that every instruction set gives the same bits. The exception is add_product(a, b, c) = a*b + c,
// fused where that is fast: it is for a and b that were floats, whose product is exact in double either way.
#pragma once

#include <cstdint>

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LP_INLINE static inline __attribute__((always_inline))
#define LP_INLINE_METHOD inline __attribute__((always_inline))

namespace layerpace::LP_ISA {

#if defined(__AVX512F__)

struct F {
  using scalar = float;
  static constexpr int width = 16;
  __m512 v;
};
struct D {
  using scalar = double;
  static constexpr int width = 8;
  __m512d v;
};
LP_INLINE F load_register(const float *p, F) { return {_mm512_loadu_ps(p)}; }
LP_INLINE D load_register(const double *p, D) { return {_mm512_loadu_pd(p)}; }
LP_INLINE void store_register(float *p, F x) { _mm512_storeu_ps(p, x.v); }
LP_INLINE void store_register(double *p, D x) { _mm512_storeu_pd(p, x.v); }
LP_INLINE F set_register(float x, F) { return {_mm512_set1_ps(x)}; }
LP_INLINE D set_register(double x, D) { return {_mm512_set1_pd(x)}; }
LP_INLINE F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
LP_INLINE D add(D a, D b) { return {_mm512_add_pd(a.v, b.v)}; }
LP_INLINE F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
LP_INLINE D sub(D a, D b) { return {_mm512_sub_pd(a.v, b.v)}; }
LP_INLINE F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
LP_INLINE D mul(D a, D b) { return {_mm512_mul_pd(a.v, b.v)}; }
LP_INLINE F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
LP_INLINE D div(D a, D b) { return {_mm512_div_pd(a.v, b.v)}; }
LP_INLINE F root(F a) { return {_mm512_sqrt_ps(a.v)}; }
LP_INLINE D root(D a) { return {_mm512_sqrt_pd(a.v)}; }
LP_INLINE F magnitude(F a) { return {_mm512_abs_ps(a.v)}; }
LP_INLINE D magnitude(D a) { return {_mm512_abs_pd(a.v)}; }
LP_INLINE F larger(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
LP_INLINE D larger(D a, D b) { return {_mm512_max_pd(a.v, b.v)}; }
LP_INLINE F if_nan(F a, F x, F y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), y.v, x.v)};
}
LP_INLINE D if_nan(D a, D x, D y) {
  return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q), y.v, x.v)};
}
LP_INLINE F if_zero(F a, F x, F y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_EQ_OQ), y.v, x.v)};
}
LP_INLINE D if_zero(D a, D x, D y) {
  return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_EQ_OQ), y.v, x.v)};
}
LP_INLINE D add_product(D a, D b, D c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
LP_INLINE D low_half(F a) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}; }
LP_INLINE D high_half(F a) {
  return {_mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)))};
}

#elif defined(__AVX2__)

struct F {
  using scalar = float;
  static constexpr int width = 8;
  __m256 v;
};
struct D {
  using scalar = double;
  static constexpr int width = 4;
  __m256d v;
};
LP_INLINE F load_register(const float *p, F) { return {_mm256_loadu_ps(p)}; }
LP_INLINE D load_register(const double *p, D) { return {_mm256_loadu_pd(p)}; }
LP_INLINE void store_register(float *p, F x) { _mm256_storeu_ps(p, x.v); }
LP_INLINE void store_register(double *p, D x) { _mm256_storeu_pd(p, x.v); }
LP_INLINE F set_register(float x, F) { return {_mm256_set1_ps(x)}; }
LP_INLINE D set_register(double x, D) { return {_mm256_set1_pd(x)}; }
LP_INLINE F add(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
LP_INLINE D add(D a, D b) { return {_mm256_add_pd(a.v, b.v)}; }
LP_INLINE F sub(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
LP_INLINE D sub(D a, D b) { return {_mm256_sub_pd(a.v, b.v)}; }
LP_INLINE F mul(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
LP_INLINE D mul(D a, D b) { return {_mm256_mul_pd(a.v, b.v)}; }
LP_INLINE F div(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
LP_INLINE D div(D a, D b) { return {_mm256_div_pd(a.v, b.v)}; }
LP_INLINE F root(F a) { return {_mm256_sqrt_ps(a.v)}; }
LP_INLINE D root(D a) { return {_mm256_sqrt_pd(a.v)}; }
LP_INLINE F magnitude(F a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
LP_INLINE D magnitude(D a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
LP_INLINE F larger(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
LP_INLINE D larger(D a, D b) { return {_mm256_max_pd(a.v, b.v)}; }
LP_INLINE F if_nan(F a, F x, F y) { return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))}; }
LP_INLINE D if_nan(D a, D x, D y) { return {_mm256_blendv_pd(y.v, x.v, _mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q))}; }
LP_INLINE F if_zero(F a, F x, F y) {
  return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_EQ_OQ))};
}
LP_INLINE D if_zero(D a, D x, D y) {
  return {_mm256_blendv_pd(y.v, x.v, _mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_EQ_OQ))};
}
LP_INLINE D add_product(D a, D b, D c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
LP_INLINE D low_half(F a) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))}; }
LP_INLINE D high_half(F a) { return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))}; }

#elif defined(__SSE2__)

struct F {
  using scalar = float;
  static constexpr int width = 4;
  __m128 v;
};
struct D {
  using scalar = double;
  static constexpr int width = 2;
  __m128d v;
};
LP_INLINE F load_register(const float *p, F) { return {_mm_loadu_ps(p)}; }
LP_INLINE D load_register(const double *p, D) { return {_mm_loadu_pd(p)}; }
LP_INLINE void store_register(float *p, F x) { _mm_storeu_ps(p, x.v); }
LP_INLINE void store_register(double *p, D x) { _mm_storeu_pd(p, x.v); }
LP_INLINE F set_register(float x, F) { return {_mm_set1_ps(x)}; }
LP_INLINE D set_register(double x, D) { return {_mm_set1_pd(x)}; }
LP_INLINE F add(F a, F b) { return {_mm_add_ps(a.v, b.v)}; }
LP_INLINE D add(D a, D b) { return {_mm_add_pd(a.v, b.v)}; }
LP_INLINE F sub(F a, F b) { return {_mm_sub_ps(a.v, b.v)}; }
LP_INLINE D sub(D a, D b) { return {_mm_sub_pd(a.v, b.v)}; }
LP_INLINE F mul(F a, F b) { return {_mm_mul_ps(a.v, b.v)}; }
LP_INLINE D mul(D a, D b) { return {_mm_mul_pd(a.v, b.v)}; }
LP_INLINE F div(F a, F b) { return {_mm_div_ps(a.v, b.v)}; }
LP_INLINE D div(D a, D b) { return {_mm_div_pd(a.v, b.v)}; }
LP_INLINE F root(F a) { return {_mm_sqrt_ps(a.v)}; }
LP_INLINE D root(D a) { return {_mm_sqrt_pd(a.v)}; }
LP_INLINE F magnitude(F a) { return {_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v)}; }
LP_INLINE D magnitude(D a) { return {_mm_andnot_pd(_mm_set1_pd(-0.0), a.v)}; }
LP_INLINE F larger(F a, F b) { return {_mm_max_ps(a.v, b.v)}; }
LP_INLINE D larger(D a, D b) { return {_mm_max_pd(a.v, b.v)}; }
LP_INLINE F blend(__m128 mask, F x, F y) { return {_mm_or_ps(_mm_and_ps(mask, x.v), _mm_andnot_ps(mask, y.v))}; }
LP_INLINE D blend(__m128d mask, D x, D y) { return {_mm_or_pd(_mm_and_pd(mask, x.v), _mm_andnot_pd(mask, y.v))}; }
LP_INLINE F if_nan(F a, F x, F y) { return blend(_mm_cmpunord_ps(a.v, a.v), x, y); }
LP_INLINE D if_nan(D a, D x, D y) { return blend(_mm_cmpunord_pd(a.v, a.v), x, y); }
LP_INLINE F if_zero(F a, F x, F y) { return blend(_mm_cmpeq_ps(a.v, _mm_setzero_ps()), x, y); }
LP_INLINE D if_zero(D a, D x, D y) { return blend(_mm_cmpeq_pd(a.v, _mm_setzero_pd()), x, y); }
LP_INLINE D add_product(D a, D b, D c) { return add(mul(a, b), c); }
LP_INLINE D low_half(F a) { return {_mm_cvtps_pd(a.v)}; }
LP_INLINE D high_half(F a) { return {_mm_cvtps_pd(_mm_movehl_ps(a.v, a.v))}; }

#elif defined(__aarch64__)

struct F {
  using scalar = float;
  static constexpr int width = 4;
  float32x4_t v;
};
struct D {
  using scalar = double;
  static constexpr int width = 2;
  float64x2_t v;
};
LP_INLINE F load_register(const float *p, F) { return {vld1q_f32(p)}; }
LP_INLINE D load_register(const double *p, D) { return {vld1q_f64(p)}; }
LP_INLINE void store_register(float *p, F x) { vst1q_f32(p, x.v); }
LP_INLINE void store_register(double *p, D x) { vst1q_f64(p, x.v); }
LP_INLINE F set_register(float x, F) { return {vdupq_n_f32(x)}; }
LP_INLINE D set_register(double x, D) { return {vdupq_n_f64(x)}; }
LP_INLINE F add(F a, F b) { return {vaddq_f32(a.v, b.v)}; }
LP_INLINE D add(D a, D b) { return {vaddq_f64(a.v, b.v)}; }
LP_INLINE F sub(F a, F b) { return {vsubq_f32(a.v, b.v)}; }
LP_INLINE D sub(D a, D b) { return {vsubq_f64(a.v, b.v)}; }
LP_INLINE F mul(F a, F b) { return {vmulq_f32(a.v, b.v)}; }
LP_INLINE D mul(D a, D b) { return {vmulq_f64(a.v, b.v)}; }
LP_INLINE F div(F a, F b) { return {vdivq_f32(a.v, b.v)}; }
LP_INLINE D div(D a, D b) { return {vdivq_f64(a.v, b.v)}; }
LP_INLINE F root(F a) { return {vsqrtq_f32(a.v)}; }
LP_INLINE D root(D a) { return {vsqrtq_f64(a.v)}; }
LP_INLINE F magnitude(F a) { return {vabsq_f32(a.v)}; }
LP_INLINE D magnitude(D a) { return {vabsq_f64(a.v)}; }
// b where a or b is nan, as on x86.
LP_INLINE F larger(F a, F b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
LP_INLINE D larger(D a, D b) { return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)}; }
LP_INLINE F if_nan(F a, F x, F y) { return {vbslq_f32(vceqq_f32(a.v, a.v), y.v, x.v)}; }
LP_INLINE D if_nan(D a, D x, D y) { return {vbslq_f64(vceqq_f64(a.v, a.v), y.v, x.v)}; }
LP_INLINE F if_zero(F a, F x, F y) { return {vbslq_f32(vceqzq_f32(a.v), x.v, y.v)}; }
LP_INLINE D if_zero(D a, D x, D y) { return {vbslq_f64(vceqzq_f64(a.v), x.v, y.v)}; }
LP_INLINE D add_product(D a, D b, D c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
LP_INLINE D low_half(F a) { return {vcvt_f64_f32(vget_low_f32(a.v))}; }
LP_INLINE D high_half(F a) { return {vcvt_high_f64_f32(a.v)}; }

#else

struct F {
  using scalar = float;
  static constexpr int width = 2;
  float v[2];
};
struct D {
  using scalar = double;
  static constexpr int width = 1;
  double v[1];
};
template <class R, class Op>
LP_INLINE R each(Op op) {
  R out;
  for (int i = 0; i < R::width; ++i) out.v[i] = op(i);
  return out;
}
#define LP_BOTH(signature_f, signature_d, expression)                      \
  LP_INLINE F signature_f { return each<F>([&](int i) { return expression; }); } \
  LP_INLINE D signature_d { return each<D>([&](int i) { return expression; }); }
LP_BOTH(load_register(const float *p, F), load_register(const double *p, D), p[i])
LP_BOTH(set_register(float x, F), set_register(double x, D), (static_cast<void>(i), x))
LP_BOTH(add(F a, F b), add(D a, D b), a.v[i] + b.v[i])
LP_BOTH(sub(F a, F b), sub(D a, D b), a.v[i] - b.v[i])
LP_BOTH(mul(F a, F b), mul(D a, D b), a.v[i] * b.v[i])
LP_BOTH(div(F a, F b), div(D a, D b), a.v[i] / b.v[i])
LP_BOTH(root(F a), root(D a), __builtin_sqrt(a.v[i]))
LP_BOTH(magnitude(F a), magnitude(D a), __builtin_fabs(a.v[i]))
LP_BOTH(larger(F a, F b), larger(D a, D b), a.v[i] > b.v[i] ? a.v[i] : b.v[i])
LP_BOTH(if_nan(F a, F x, F y), if_nan(D a, D x, D y), a.v[i] != a.v[i] ? x.v[i] : y.v[i])
LP_BOTH(if_zero(F a, F x, F y), if_zero(D a, D x, D y), a.v[i] == 0 ? x.v[i] : y.v[i])
#undef LP_BOTH
LP_INLINE void store_register(float *p, F x) { p[0] = x.v[0], p[1] = x.v[1]; }
LP_INLINE void store_register(double *p, D x) { p[0] = x.v[0]; }
LP_INLINE D add_product(D a, D b, D c) { return add(mul(a, b), c); }
LP_INLINE D low_half(F a) { return {{a.v[0]}}; }
LP_INLINE D high_half(F a) { return {{a.v[1]}}; }

#endif

}  // namespace layerpace::LP_ISA
