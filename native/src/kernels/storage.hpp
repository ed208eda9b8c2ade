// From memory to the numbers of the computation and back: bfloat16, float16, float32, float64.
//
// Rounding is to nearest, ties to even, as torch has it, or stochastic: up or down at random, so that the mean is
// exact. Random bits are a hash of a key and the number of the entry: they depend neither on threads nor on
// instruction sets.
#pragma once



#include "../job.hpp"
#include "register.hpp"

namespace layerpace::LP_ISA {

LP_INLINE uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// Random bits for consecutive entries of one tensor: sixteen of them serve one rounding.
inline void draw(uint64_t key, uint64_t first, int64_t n, uint32_t *__restrict bits) {
  const uint32_t low = static_cast<uint32_t>(first);
  const uint32_t offset =
      static_cast<uint32_t>(key) ^ mix(static_cast<uint32_t>(key >> 32) + static_cast<uint32_t>(first >> 32));
  for (int64_t i = 0; i < n; ++i) bits[i] = mix((low + static_cast<uint32_t>(i)) ^ offset);
}

// Where a rounding takes its bits from: the lower or the upper half of each number.
struct Random {
  const uint32_t *bits;
  int shift;
};

LP_INLINE float bf16_to_float(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

LP_INLINE uint16_t float_to_bf16(float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Adding 16 random bits below the last one that stays carries with the right probability.
LP_INLINE uint16_t float_to_bf16_random(float x, uint32_t random) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x), size = bits & 0x7fffffffu;
  uint32_t rounded = (bits + (random & 0xffffu)) >> 16;
  uint32_t special = bits >> 16 | (size > 0x7f800000u ? 0x40u : 0u);  // inf stays, nan becomes quiet
  return static_cast<uint16_t>(size >= 0x7f800000u ? special : rounded);
}

LP_INLINE float f16_to_float(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, size = h & 0x7fffu;
  // Exponents are moved up by a multiplication, which subnormal numbers survive.
  float normal = __builtin_bit_cast(float, size << 13) * 0x1p112f;
  uint32_t bits = size >= 0x7c00u ? 0x7f800000u | (size & 0x3ffu) << 13 | (size > 0x7c00u ? 0x400000u : 0u)
                                  : __builtin_bit_cast(uint32_t, normal);
  return __builtin_bit_cast(float, bits | sign);
}

LP_INLINE uint16_t float_to_f16(float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t out;
  if (size > 0x7f800000u) {
    out = 0x7e00u | (size >> 13 & 0x1ffu);
  } else if (size >= 0x477ff000u) {  // 65520 and more
    out = 0x7c00u;
  } else if (size < 0x38800000u) {  // subnormal: the adder rounds at 2^-24
    out = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, size) + 0.5f) - 0x3f000000u;
  } else {
    out = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(out | sign);
}

LP_INLINE uint16_t float_to_f16_random(float x, uint32_t random) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size >= 0x7f800000u) return float_to_f16(x);
  uint32_t out;
  if (size < 0x38800000u) {
    // In units of 2^-24, the spacing of subnormal numbers; exact in double.
    double steps = static_cast<double>(__builtin_bit_cast(float, size)) * 0x1p24;
    out = static_cast<uint32_t>(steps + (random & 0xffffu) * 0x1p-16);
  } else {
    out = (size - 0x38000000u + (random & 0x1fffu)) >> 13;
    if (out > 0x7c00u) out = 0x7c00u;
  }
  return static_cast<uint16_t>(out | sign);
}

// Loops that compilers vectorize: integers and shifts, no branch.
template <class T>
void widen_bf16(int64_t n, const uint16_t *__restrict from, T *__restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = bf16_to_float(from[i]);
}

inline void round_bf16(int64_t n, const float *__restrict from, uint16_t *__restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = float_to_bf16(from[i]);
}

inline void round_bf16(int64_t n, const float *__restrict from, uint16_t *__restrict to, const Random &random) {
  const uint32_t *__restrict bits = random.bits;
  const int shift = random.shift;
  for (int64_t i = 0; i < n; ++i) to[i] = float_to_bf16_random(from[i], bits[i] >> shift);
}

inline void widen_f16(int64_t n, const uint16_t *from, float *to) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i))));
  }
#endif
  for (; i < n; ++i) to[i] = f16_to_float(from[i]);
}

inline void round_f16(int64_t n, const float *from, uint16_t *to) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i), half);
  }
#endif
  for (; i < n; ++i) to[i] = float_to_f16(from[i]);
}

inline void round_f16(int64_t n, const float *from, uint16_t *to, const Random &random) {
  for (int64_t i = 0; i < n; ++i) to[i] = float_to_f16_random(from[i], random.bits[i] >> random.shift);
}

// n entries of `from` as T: the memory itself where it fits, else a copy in `buffer`, zero up to `padded`.
template <class T>
T *fetch(Storage storage, const void *from, int64_t at, int64_t n, int64_t padded, T *buffer) {
  constexpr Storage own = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
  if (storage == own) {
    T *memory = static_cast<T *>(const_cast<void *>(from)) + at;
    if (n == padded) return memory;
    __builtin_memcpy(buffer, memory, n * sizeof(T));
  } else if constexpr (sizeof(T) == 4) {
    const uint16_t *half = static_cast<const uint16_t *>(from) + at;
    storage == Storage::bf16 ? widen_bf16(n, half, buffer) : widen_f16(n, half, buffer);
  }
  for (int64_t i = n; i < padded; ++i) buffer[i] = T(0);
  return buffer;
}

// Back to memory what `fetch` copied; with random numbers it is rounded stochastically.
template <class T>
void put_back(Storage storage, void *to, int64_t at, int64_t n, const T *buffer, const Random *random) {
  constexpr Storage own = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
  if (storage == own) {
    T *memory = static_cast<T *>(to) + at;
    if (memory != buffer) __builtin_memcpy(memory, buffer, n * sizeof(T));
  } else if constexpr (sizeof(T) == 4) {
    uint16_t *half = static_cast<uint16_t *>(to) + at;
    if (storage == Storage::bf16) {
      random ? round_bf16(n, buffer, half, *random) : round_bf16(n, buffer, half);
    } else {
      random ? round_f16(n, buffer, half, *random) : round_f16(n, buffer, half);
    }
  }
}

}  // namespace layerpace::LP_ISA
