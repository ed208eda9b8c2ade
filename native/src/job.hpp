// What the engine hands to a kernel: the options of a bucket, and a run of consecutive entries of one layer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace layerpace {

enum class Storage : uint8_t { f32, f64, bf16, f16 };

inline int64_t bytes(Storage storage) { return storage == Storage::f64 ? 8 : storage == Storage::f32 ? 4 : 2; }

enum DirectionId : int {
  kSGD,
  kHeavyBall,
  kNesterov,
  kEMAMomentum,
  kAdaGrad,
  kAdaDelta,
  kRMSProp,
  kRMSPropCentered,
  kRMSPropMomentum,
  kRMSPropCenteredMomentum,
  kAdam,
  kAMSGrad,
  kAdaMax,
  kNAdam,
  kRAdam,
  kDirections
};

enum UpdateId : int { kDisplace, kHeavyVelocity, kNesterovVelocity };

enum class LowPrecision : int { plain, master, stochastic };

// In the order of layerpace.columns.
enum Column : int { WW, UU, WU, W_L1, U_L1, U_OVER_W_L1, U_OVER_FLOOR_L1, NONFINITE, COLUMN_COUNT };
constexpr unsigned WEIGHT_COLUMNS =
    1u << WW | 1u << WU | 1u << W_L1 | 1u << U_OVER_W_L1 | 1u << U_OVER_FLOOR_L1;

// d = c*w + b*u; lr multiplies what is subtracted, where it stands outside of the velocity.
struct Coefficients {
  double c = 0.0, b = 0.0, lr = 1.0;
};

// What monitors read, in the order of layerpace.columns.MEASURED.
constexpr int64_t LARGE_LAYER = 1 << 14;
enum Measured : int { M_WW, M_W_L1, M_GG, M_DD, M_WD, M_D_L1, MEASURED_COUNT };

struct Job {
  Storage param = Storage::f32, moment = Storage::f32;
  DirectionId direction = kSGD;
  UpdateId update = kDisplace;
  LowPrecision low_precision = LowPrecision::plain;
  unsigned columns = 0;       // a bit a Column
  double eps = 0, floor = 0;  // of the quotient columns
  double gradient_factor = 1, l2 = 0;
  double momentum = 0, keep = 1;

  // The sum of the squares of u is that of the gradient, too.
  bool squares_are_u() const { return direction == kSGD && l2 == 0 && (columns >> UU & 1); }
};

// Entries [first, first + n) of a parameter. Pointers are to the first of them.
struct Piece {
  void *w;
  const void *g;
  void *s[3];
  void *v;
  float *master;
  int64_t n;
  const double *constants;  // of the direction
  uint64_t key;             // of the random numbers of this parameter and step
  uint64_t first;
  const Piece *next;  // what this thread works on afterwards, or null
  void *kept = nullptr;  // room for n entries of u, from the first pass to the second; null: the second makes u again
  bool large = false;          // the layer: roundings of its entries average out
  double *measured = nullptr;  // <g, g> of the first pass, the rest of the second; null: nobody reads it
};

// The kernels of one instruction set.
struct Kernels {
  const char *name;
  int (*states)(DirectionId);  // how many moments a direction has
  void (*prepare)(DirectionId, const double *options, double t, double *memory, double *constants);
  // The sums of the gradient alone, before weight decay.
  void (*gradient)(const Job &, const Piece &, double *sums);
  // Pass 1: advance the direction, add up the columns.
  void (*first)(const Job &, const Piece &, double *sums);
  // Pass 2: move the weights by d, made of the u of pass 1.
  void (*second)(const Job &, const Piece &, const Coefficients &);
  // Both in one pass, where the coefficients do not depend on the sums.
  void (*whole)(const Job &, const Piece &, const Coefficients &, double *sums);
  // The sums of MEASURED over n entries of weights, old and now, without that of the gradient; and <x, x>.
  void (*moves)(Storage, const void *old, Storage, const void *now, int64_t n, bool large, double *sums);
  void (*squares)(Storage, const void *x, int64_t n, bool large, double *sum);
};

constexpr int CONSTANTS = 8;  // numbers a direction prepares

extern const Kernels kernels_baseline;
#ifdef LP_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace layerpace
