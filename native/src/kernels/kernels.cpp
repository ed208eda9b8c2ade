// The kernels of one instruction set: this file is compiled once for each, with LP_ISA as the namespace.
//
// A piece is worked on in blocks. Memory of the computation's own type is read and written where it is; other storage
// goes through buffers that stay in the L1 cache. Nothing from the standard library that the linker could share between
// instruction sets may be called here.
#include "../job.hpp"
#include "loops.hpp"
#include "storage.hpp"

namespace layerpace::LP_ISA {
namespace {

constexpr int64_t BLOCK = 256;
constexpr int64_t DISTANCE = 2048;  // entries that the prefetches run ahead

template <class T>
struct Buffers {
  alignas(64) T w[BLOCK], g[BLOCK], s[MAX_STATES][BLOCK], v[BLOCK], u[BLOCK], old[BLOCK], now[BLOCK];
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
    if (piece_.measured) measured_.clear();
    for (int64_t at = 0, blocks = 0; at < piece_.n;) {
      const int64_t left = piece_.n - at;
      // Whole vectors first; what remains goes through buffers that are padded with zeros.
      const int64_t n = left >= LANES ? (left < BLOCK ? left : BLOCK) / LANES * LANES : left;
      block<stage>(at, n, (n + LANES - 1) / LANES * LANES, coefficients, lanes);
      at += n;
      if (piece_.measured && ++blocks % BLOCKS_IN_FLOATS == 0) measured_.widen_all();
    }
    if (piece_.measured) put_measured<stage>();
    if (stage == Stage::second || !sums) return;
    for (int column = 0; column < COLUMN_COUNT; ++column) {
      if (job_.columns >> column & 1) sums[column] = total(load(lanes.lane[column]));
    }
  }

 private:
  template <Stage stage>
  void block(int64_t at, int64_t n, int64_t padded, const Coefficients &coefficients, Lanes &lanes) {
    constexpr bool moves = stage == Stage::second || stage == Stage::whole;
    const Ahead ahead = look_ahead(at + DISTANCE);
    T *kept = stage == Stage::first || stage == Stage::second ? static_cast<T *>(piece_.kept) : nullptr;
    const bool has_u = stage == Stage::second && kept;
    Operands<T> on;
    on.constants = piece_.constants;
    if (moves || job_.l2 != 0 || (job_.columns & WEIGHT_COLUMNS)) on.w = weights(at, n, padded);
    if (!has_u && (stage != Stage::second || direction_.again_reads_gradient)) {
      on.g = gradients(at, n, padded, on.w, stage);
    }
    if constexpr (stage == Stage::gradient) {
      sum_any<T>(job_.columns, padded, on.w, on.g, job_.eps, job_.floor, lanes);
      return;
    }
    if (!has_u) moments<stage != Stage::second>(at, n, padded, on);

    if constexpr (stage == Stage::first) {
      const int set = n == padded ? column_set(job_.columns) : -1;
      if (kept) on.u = kept + at;
      sum(set, padded, on, n, kept != nullptr, ahead, lanes);
    }
    if constexpr (moves) {
      on.out = const_cast<T *>(on.w);  // memory that is written in place, or the buffer that w lies in
      if (job_.update != kDisplace) on.v = fetch<T>(job_.moment, piece_.v, at, n, padded, buffers_.v);
      // The sums of a large layer's moves are taken by the update itself, if what it writes is what is kept.
      const bool fused = measures_within(n, padded);
      if (piece_.measured && !fused) copy(padded, on.w, buffers_.old);
      Update<T> update = (stage == Stage::second ? direction_.again : direction_.whole)[fused][job_.update];
      if (has_u) {
        on.u = kept + at;
        update = WITH_U<T>[fused][job_.update];
      } else if (stage == Stage::whole && job_.columns) {
        sum(n == padded ? column_set(job_.columns) : -1, padded, on, n, true, ahead, lanes);
        update = WITH_U<T>[fused][job_.update];
      }
      update(padded, on, coefficients, job_.momentum, job_.keep, ahead, measured_);
    }
    if (!has_u) put_moments<stage != Stage::second>(at, n, on, stage == Stage::whole || kept);
    if constexpr (moves) put_weights(at, n, on);
    if (moves && piece_.measured && !measures_within(n, padded)) {
      measure_moves<T>(padded, buffers_.old, weights_now(at, n, padded, on), piece_.large, measured_);
    }
  }

  bool measures_within(int64_t n, int64_t padded) const {
    return sizeof(T) == 4 && piece_.measured && piece_.large && n == padded && (bytes(job_.param) == int64_t{sizeof(T)} || piece_.master);
  }

  // The weights that the next step will compute with; zero where a padded block has none, and so are the old ones.
  const T *weights_now(int64_t at, int64_t n, int64_t padded, const Operands<T> &on) {
    const T *now = on.out;
    if (bytes(job_.param) == 2 && !piece_.master) now = fetch<T>(job_.param, piece_.w, at, n, padded, buffers_.now);
    if (n == padded) return now;
    if (now != buffers_.now) copy(padded, now, buffers_.now);
    for (int64_t i = n; i < padded; ++i) buffers_.old[i] = buffers_.now[i] = T(0);
    return buffers_.now;
  }

  static void copy(int64_t n, const T *from, T *to) {
    for (int64_t i = 0; i < n; i += LANES) store(to + i, load(from + i));
  }

  template <Stage stage>
  void put_measured() {
    measured_.widen_all();
    for (int column = 0; column < MEASURED_COUNT; ++column) {
      if ((column == M_GG) ? stage == Stage::second : stage == Stage::first) continue;
      const double factor = column == M_GG ? job_.gradient_factor * job_.gradient_factor : 1.0;
      piece_.measured[column] = factor * total(load(measured_.wide[column]));
    }
  }

  // The first pass over a block, by one loop if there is one for the columns. A padded block's u is made zero where
  // there is no entry, before it is summed. u is left in on.u, which may be its own buffer.
  void sum(int set, int64_t padded, Operands<T> &on, int64_t n, bool finish, const Ahead &ahead, Lanes &lanes) {
    if (set >= 0) {
      if (!on.u && finish) on.u = buffers_.u;
      direction_.first[set](padded, on, job_.eps, job_.floor, finish, ahead, lanes);
      return;
    }
    if (!on.u) on.u = buffers_.u;
    direction_.first[0](padded, on, job_.eps, job_.floor, finish, ahead, lanes);
    for (int64_t i = n; i < padded; ++i) on.u[i] = T(0);
    sum_any<T>(job_.columns, padded, on.w, on.u, job_.eps, job_.floor, lanes);
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
    out.u = job_.direction == kSGD ? out.g : stream(from.kept, sizeof(T) == 8 ? Storage::f64 : Storage::f32);
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
    const bool first = stage == Stage::first || stage == Stage::whole;
    if (piece_.measured && first && !job_.squares_are_u()) measure_squares<T>(padded, g, piece_.large, measured_);
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

  // The moments that a pass reads or writes.
  template <bool First>
  void moments(int64_t at, int64_t n, int64_t padded, Operands<T> &on) {
    const unsigned all = (1u << direction_.states) - 1;
    const unsigned touched = First ? all : direction_.again_reads | direction_.again_writes;
    for (int j = 0; j < direction_.states; ++j) {
      if (touched >> j & 1) on.s[j] = fetch<T>(job_.moment, piece_.s[j], at, n, padded, buffers_.s[j]);
    }
  }

  template <bool First>
  void put_moments(int64_t at, int64_t n, const Operands<T> &on, bool finished) {
    const unsigned all = (1u << direction_.states) - 1, late = direction_.again_writes;
    const unsigned written = !First ? late : finished ? all : all & ~late;
    for (int j = 0; j < direction_.states; ++j) {
      if (written >> j & 1) {
        const bool drawn = j % 2 == 1 && (written >> (j - 1) & 1);
        if (sizeof(T) == 4 && job_.moment == Storage::bf16 && !drawn) draw_bits(static_cast<uint64_t>(j / 2), at, n);
        const Random half = {bits_, j % 2 * 16};
        put_back<T>(job_.moment, piece_.s[j], at, n, on.s[j], &half);
      }
    }
  }

  void put_weights(int64_t at, int64_t n, const Operands<T> &on) {
    if (on.v) {
      if (sizeof(T) == 4 && job_.moment == Storage::bf16) draw_bits(MAX_STATES, at, n);
      const Random half = {bits_, 0};
      put_back<T>(job_.moment, piece_.v, at, n, on.v, &half);
    }
    if constexpr (sizeof(T) == 4) {
      if (piece_.master) __builtin_memcpy(piece_.master + at, on.out, static_cast<size_t>(n) * sizeof(float));
    }
    const bool stochastic = sizeof(T) == 4 && job_.low_precision == LowPrecision::stochastic && bytes(job_.param) == 2;
    if (stochastic) draw_bits(MAX_STATES + 1, at, n);
    const Random half = {bits_, 0};
    put_back<T>(job_.param, piece_.w, at, n, on.out, stochastic ? &half : nullptr);
  }

  // Random bits for the block, one sequence for each number.
  void draw_bits(uint64_t sequence, int64_t at, int64_t n) {
    draw(piece_.key + sequence * 0x9e3779b97f4a7c15u, piece_.first + static_cast<uint64_t>(at), n, bits_);
  }

  const Job &job_;
  const Piece &piece_;
  const Direction<T> &direction_;
  Buffers<T> buffers_;
  MeasuredLanes<T> measured_;
  alignas(64) uint32_t bits_[BLOCK];
};

template <Stage stage>
void run(const Job &job, const Piece &piece, const Coefficients &coefficients, double *sums) {
  if (job.param == Storage::f64) {
    Walk<double>(job, piece).template run<stage>(coefficients, sums);
  } else {
    Walk<float>(job, piece).template run<stage>(coefficients, sums);
  }
}

int states(DirectionId direction) { return DIRECTIONS<double>[direction].states; }
void prepare(DirectionId direction, const double *options, double t, double *memory, double *constants) {
  DIRECTIONS<double>[direction].prepare(options, t, memory, constants);
}
void gradient(const Job &job, const Piece &piece, double *sums) { run<Stage::gradient>(job, piece, {}, sums); }
void first(const Job &job, const Piece &piece, double *sums) { run<Stage::first>(job, piece, {}, sums); }
void second(const Job &job, const Piece &piece, const Coefficients &at) { run<Stage::second>(job, piece, at, nullptr); }
void whole(const Job &job, const Piece &piece, const Coefficients &at, double *sums) {
  run<Stage::whole>(job, piece, at, sums);
}

// A block from entry `at` on; it may lie behind the end.
LP_INLINE void prefetch(const void *from, Storage storage, int64_t at) {
  const char *first = static_cast<const char *>(from) + at * bytes(storage);
  for (int64_t i = 0; i < BLOCK * bytes(storage); i += 64) __builtin_prefetch(first + i);
}

template <class T>
void moves_of(Storage old_storage, const void *old, Storage storage, const void *now, int64_t n, bool large, double *sums) {
  alignas(64) T before[BLOCK], after[BLOCK];
  MeasuredLanes<T> lanes;
  lanes.clear();
  for (int64_t at = 0, taken, blocks = 0; at < n; at += taken) {
    taken = n - at < BLOCK ? n - at : BLOCK;
    const int64_t padded = (taken + LANES - 1) / LANES * LANES;
    prefetch(old, old_storage, at + DISTANCE), prefetch(now, storage, at + DISTANCE);
    measure_moves<T>(padded, fetch<T>(old_storage, old, at, taken, padded, before),
                     fetch<T>(storage, now, at, taken, padded, after), large, lanes);
    if (++blocks % BLOCKS_IN_FLOATS == 0) lanes.widen_all();
  }
  lanes.widen_all();
  for (int column = 0; column < MEASURED_COUNT; ++column) sums[column] = total(load(lanes.wide[column]));
}
void moves(Storage old_storage, const void *old, Storage storage, const void *now, int64_t n, bool large, double *sums) {
  storage == Storage::f64 ? moves_of<double>(old_storage, old, storage, now, n, large, sums)
                          : moves_of<float>(old_storage, old, storage, now, n, large, sums);
}

template <class T>
void squares_of(Storage storage, const void *x, int64_t n, bool large, double *sum) {
  alignas(64) T buffer[BLOCK];
  MeasuredLanes<T> lanes;
  lanes.clear();
  for (int64_t at = 0, taken, blocks = 0; at < n; at += taken) {
    taken = n - at < BLOCK ? n - at : BLOCK;
    const int64_t padded = (taken + LANES - 1) / LANES * LANES;
    prefetch(x, storage, at + DISTANCE);
    measure_squares<T>(padded, fetch<T>(storage, x, at, taken, padded, buffer), large, lanes);
    if (++blocks % BLOCKS_IN_FLOATS == 0) lanes.widen_all();
  }
  lanes.widen_all();
  *sum = total(load(lanes.wide[M_GG]));
}
void squares(Storage storage, const void *x, int64_t n, bool large, double *sum) {
  storage == Storage::f64 ? squares_of<double>(storage, x, n, large, sum) : squares_of<float>(storage, x, n, large, sum);
}

}  // namespace
}  // namespace layerpace::LP_ISA

namespace layerpace {

#define LP_TEXT(name) #name
#define LP_NAME(name) LP_TEXT(name)
#define LP_JOIN(a, b) a##b
#define LP_TABLE(name) LP_JOIN(kernels_, name)
extern const Kernels LP_TABLE(LP_ISA) = {
    LP_NAME(LP_ISA), LP_ISA::states, LP_ISA::prepare, LP_ISA::gradient, LP_ISA::first, LP_ISA::second, LP_ISA::whole,
    LP_ISA::moves, LP_ISA::squares,
};

}  // namespace layerpace
