// The kernels of one instruction set: this file is compiled once for each, with LP_ISA as the namespace.
//
// A piece is worked on in blocks that stay in the L1 cache: conversion, direction, sums and update are loops of their
// own over a block, so that any direction goes with any update, any columns and any storage. Nothing from the standard
// library that the linker could share between instruction sets may be called here.
#include "../job.hpp"
#include "columns.hpp"
#include "directions.hpp"
#include "storage.hpp"
#include "updates.hpp"

namespace layerpace::LP_ISA {
namespace {

constexpr int64_t BLOCK = 256;
constexpr int64_t DISTANCE = 2048;  // entries that the prefetches run ahead

template <class T>
struct Buffers {
  alignas(64) T w[BLOCK], g[BLOCK], s[MAX_STATES][BLOCK], v[BLOCK], u[BLOCK];
};

enum class Stage { gradient, first, second, whole };

template <class T>
class Walk {
 public:
  Walk(const Job &job, const Piece &piece) : job_(job), piece_(piece), direction_(DIRECTIONS<T>[job.direction]) {}

  template <Stage stage>
  void run(const Coefficients &coefficients, double *sums) {
    Lanes lanes;
    for (int column = 0; column < COLUMN_COUNT; ++column) {
      if (stage != Stage::second) store(lanes.lane[column], all<double>(0.0));
    }
    for (int64_t at = 0; at < piece_.n;) {
      const int64_t left = piece_.n - at;
      // Whole vectors first; what remains goes through buffers that are padded with zeros.
      const int64_t n = left >= LANES ? (left < BLOCK ? left : BLOCK) / LANES * LANES : left;
      block<stage>(at, n, (n + LANES - 1) / LANES * LANES, coefficients, lanes);
      at += n;
    }
    if (stage == Stage::second || !sums) return;
    for (int column = 0; column < COLUMN_COUNT; ++column) {
      if (job_.columns >> column & 1) sums[column] = total(load(lanes.lane[column]));
    }
  }

 private:
  template <Stage stage>
  void block(int64_t at, int64_t n, int64_t padded, const Coefficients &coefficients, Lanes &lanes) {
    constexpr bool moves = stage == Stage::second || stage == Stage::whole;
    const T *w = nullptr;
    if (moves || job_.l2 != 0 || (job_.columns & WEIGHT_COLUMNS)) w = weights(at, n, padded);

    const Ahead ahead = look_ahead(at + DISTANCE);
    T *kept = static_cast<T *>(piece_.kept);
    const bool has_u = stage == Stage::second && kept;
    const T *g = nullptr;
    if (!has_u && (stage != Stage::second || direction_.again_reads_gradient)) g = gradients(at, n, padded, w, stage);
    if constexpr (stage == Stage::gradient) {
      sum_any<T>(job_.columns, padded, w, g, job_.eps, job_.floor, ahead, lanes);
      return;
    }

    const T *u = g;
    if (has_u) {
      u = kept + at;
    } else if (job_.direction != kSGD) {
      T *made = kept ? kept + at : buffers_.u;
      if constexpr (stage == Stage::second) {
        advance(direction_.again, direction_.again_reads, direction_.again_writes, at, n, padded, g, made, ahead);
      } else {
        const unsigned all = (1u << direction_.states) - 1;
        advance(direction_.first, all, all & ~direction_.again_writes, at, n, padded, g, made, ahead);
        if (stage == Stage::whole && direction_.again_writes) {
          advance(direction_.again, direction_.again_reads, direction_.again_writes, at, n, padded, g, made, ahead);
        }
      }
      for (int64_t i = n; i < padded; ++i) made[i] = T(0);
      u = made;
    }
    if (stage != Stage::second && job_.columns) {
      sum_any<T>(job_.columns, padded, w, u, job_.eps, job_.floor, ahead, lanes);
    }
    if constexpr (moves) move(at, n, padded, w, u, coefficients, ahead);
  }

  // What lies behind entry `at`: more of this piece, or the start of the next one.
  Ahead look_ahead(int64_t at) const {
    const bool over = at + LANES > piece_.n, nothing = over && !piece_.next;
    const Piece &from = over && piece_.next ? *piece_.next : piece_;
    const int64_t start = over ? at - piece_.n / LANES * LANES : at;
    auto stream = [&](const void *tensor, Storage storage) {
      const int64_t entry = nothing || !tensor ? 0 : bytes(storage);
      const void *base = entry ? tensor : this;
      return Stream{static_cast<const char *>(base) + start * entry, entry};
    };
    Ahead out{stream(from.w, job_.param), stream(from.g, job_.param), {}, stream(from.v, job_.moment), {}};
    for (int j = 0; j < MAX_STATES; ++j) out.s[j] = stream(from.s[j], job_.moment);
    out.u = job_.direction == kSGD ? out.g : stream(nullptr, job_.param);
    return out;
  }

  const T *weights(int64_t at, int64_t n, int64_t padded) {
    T *w = fetch<T>(job_.param, piece_.w, at, n, padded, buffers_.w);
    if constexpr (sizeof(T) == 4) {
      if (piece_.master) {
        // The master copy counts where the weight is its rounding; else something wrote the weight, and it counts.
        const uint16_t *stored = static_cast<const uint16_t *>(piece_.w) + at;
        const float *master = piece_.master + at;
        uint16_t rounded[BLOCK];
        job_.param == Storage::bf16 ? round_bf16(n, master, rounded) : round_f16(n, master, rounded);
        for (int64_t i = 0; i < n; ++i) {
          // Equal as numbers: -0 is 0. A nan is never equal, and the weight is one as well then.
          bool same = rounded[i] == stored[i] || ((rounded[i] | stored[i]) & 0x7fffu) == 0;
          w[i] = same ? master[i] : w[i];
        }
      }
    }
    return w;
  }

  const T *gradients(int64_t at, int64_t n, int64_t padded, const T *w, Stage stage) {
    const T *g = fetch<T>(job_.param, piece_.g, at, n, padded, buffers_.g);
    const bool decays = job_.l2 != 0 && stage != Stage::gradient;
    if (job_.gradient_factor == 1 && !decays) return g;
    const Vec<T> factor = all<T>(job_.gradient_factor), l2 = all<T>(job_.l2);
    for (int64_t i = 0; i < padded; i += LANES) {
      Vec<T> scaled = load(g + i) * factor;
      if (decays) scaled = scaled + load(w + i) * l2;
      store(buffers_.g + i, scaled);
    }
    return buffers_.g;
  }

  template <class Run>
  void advance(Run run, unsigned reads, unsigned writes, int64_t at, int64_t n, int64_t padded, const T *g,
               T *u, const Ahead &ahead) {
    T *s[MAX_STATES] = {};
    for (int j = 0; j < direction_.states; ++j) {
      if ((reads | writes) >> j & 1) s[j] = fetch<T>(job_.moment, piece_.s[j], at, n, padded, buffers_.s[j]);
    }
    run(padded, g, s, u, piece_.constants, ahead);
    for (int j = 0; j < direction_.states; ++j) {
      if (writes >> j & 1) {
        const Random numbers = random(j, at);
        put_back<T>(job_.moment, piece_.s[j], at, n, s[j], &numbers);
      }
    }
  }

  void move(int64_t at, int64_t n, int64_t padded, const T *w, const T *u, const Coefficients &coefficients,
            const Ahead &ahead) {
    T *v = job_.update == kDisplace ? nullptr : fetch<T>(job_.moment, piece_.v, at, n, padded, buffers_.v);
    // Memory that is written in place, or the buffer that w lies in already.
    T *out = const_cast<T *>(w);
    UPDATES<T>[job_.update](padded, w, out, u, v, coefficients, job_.momentum, job_.keep, ahead);
    if (v) {
      const Random numbers = random(MAX_STATES, at);
      put_back<T>(job_.moment, piece_.v, at, n, v, &numbers);
    }
    if constexpr (sizeof(T) == 4) {
      if (piece_.master) __builtin_memcpy(piece_.master + at, out, n * sizeof(float));
    }
    const Random numbers = random(MAX_STATES + 1, at);
    const bool stochastic = job_.low_precision == LowPrecision::stochastic;
    put_back<T>(job_.param, piece_.w, at, n, out, stochastic ? &numbers : nullptr);
  }

  // Random numbers for one of the tensors of a parameter.
  Random random(uint64_t tensor, int64_t at) const {
    return {piece_.key + tensor * 0x9e3779b97f4a7c15u, piece_.first + static_cast<uint64_t>(at)};
  }

  const Job &job_;
  const Piece &piece_;
  const Direction<T> &direction_;
  Buffers<T> buffers_;
};

template <Stage stage>
void run(const Job &job, const Piece &piece, const Coefficients &coefficients, double *sums) {
  if (job.param == Storage::f64) {
    Walk<double>(job, piece).template run<stage>(coefficients, sums);
  } else {
    Walk<float>(job, piece).template run<stage>(coefficients, sums);
  }
}

void prepare(DirectionId direction, const double *options, double t, double *memory, double *constants) {
  DIRECTIONS<double>[direction].prepare(options, t, memory, constants);
}
void gradient(const Job &job, const Piece &piece, double *sums) { run<Stage::gradient>(job, piece, {}, sums); }
void first(const Job &job, const Piece &piece, double *sums) { run<Stage::first>(job, piece, {}, sums); }
void second(const Job &job, const Piece &piece, const Coefficients &at) { run<Stage::second>(job, piece, at, nullptr); }
void whole(const Job &job, const Piece &piece, const Coefficients &at, double *sums) {
  run<Stage::whole>(job, piece, at, sums);
}

}  // namespace
}  // namespace layerpace::LP_ISA

namespace layerpace {

#define LP_TEXT(name) #name
#define LP_NAME(name) LP_TEXT(name)
#define LP_JOIN(a, b) a##b
#define LP_TABLE(name) LP_JOIN(kernels_, name)
extern const Kernels LP_TABLE(LP_ISA) = {
    LP_NAME(LP_ISA), LP_ISA::prepare, LP_ISA::gradient, LP_ISA::first, LP_ISA::second, LP_ISA::whole,
};

}  // namespace layerpace
