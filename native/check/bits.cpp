// Runs every kernel of one instruction set on made numbers and prints a hash of all bits that come out: two machines
// or instruction sets that print the same lines compute the same. See `make arm64`.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../src/job.hpp"

using namespace layerpace;

namespace {

constexpr int64_t N = 1500 + 11;  // blocks, and a tail

struct Numbers {
  uint64_t state = 1;
  double next() {  // in (-1, 1)
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(static_cast<int64_t>(state)) * 0x1p-63;
  }
};

uint64_t hash(const void *data, size_t size, uint64_t value) {
  const auto *at = static_cast<const unsigned char *>(data);
  for (size_t i = 0; i < size; ++i) value = (value ^ at[i]) * 0x100000001b3u;
  return value;
}

// bfloat16 and float16 patterns of moderate size, without a conversion that is itself to be checked.
void fill(std::vector<char> &memory, Storage storage, Numbers &numbers, bool positive) {
  for (int64_t i = 0; i < N; ++i) {
    double x = numbers.next();
    if (positive) x = std::fabs(x);
    if (storage == Storage::f64) std::memcpy(&memory[i * 8], &x, 8);
    if (storage == Storage::f32) {
      auto single = static_cast<float>(x);
      std::memcpy(&memory[i * 4], &single, 4);
    }
    if (storage == Storage::bf16 || storage == Storage::f16) {
      auto bits = static_cast<uint16_t>((storage == Storage::bf16 ? 0x3e00 : 0x3000) + static_cast<int>(std::fabs(x) * 400));
      if (x < 0) bits |= 0x8000;
      std::memcpy(&memory[i * 2], &bits, 2);
    }
  }
}

}  // namespace

int main() {
  const Kernels &kernels = kernels_baseline;
  const Storage params[] = {Storage::f32, Storage::f64, Storage::bf16, Storage::f16};
  for (int direction = 0; direction < kDirections; ++direction) {
    for (int kind = 0; kind < 4; ++kind) {
      for (int narrow = 0; narrow < (params[kind] == Storage::f64 ? 1 : 2); ++narrow) {
        Job job;
        job.param = params[kind];
        job.moment = params[kind] == Storage::f64 ? Storage::f64 : narrow ? Storage::bf16 : Storage::f32;
        job.direction = static_cast<DirectionId>(direction);
        job.update = static_cast<UpdateId>(direction % 3);
        job.low_precision = static_cast<LowPrecision>(direction % 2 ? 2 : 0);
        job.columns = (1u << COLUMN_COUNT) - 1;
        job.eps = 1e-8, job.floor = 1e-3, job.gradient_factor = -0.75, job.l2 = 0.01, job.momentum = 0.9, job.keep = 0.1;
        Numbers numbers;
        auto room = [](Storage storage) { return std::vector<char>(static_cast<size_t>(N * bytes(storage))); };
        std::vector<char> w = room(job.param), g = room(job.param), v = room(job.moment);
        std::vector<char> s[3] = {room(job.moment), room(job.moment), room(job.moment)};
        fill(w, job.param, numbers, false), fill(g, job.param, numbers, false), fill(v, job.moment, numbers, false);
        for (auto &moment : s) fill(moment, job.moment, numbers, true);
        const double options[CONSTANTS] = {0.875, 0.96875, 1e-6, 1, 1, 0, 0, 0};
        double memory = 0.75, constants[CONSTANTS] = {}, sums[COLUMN_COUNT] = {};
        kernels.prepare(job.direction, options, 3, &memory, constants);
        Piece piece{w.data(), g.data(), {s[0].data(), s[1].data(), s[2].data()}, v.data(), nullptr, N, constants,
                    0x123456789abcdefu, 7, nullptr};
        double measured[MEASURED_COUNT] = {};
        piece.measured = measured, piece.large = direction % 2 == 0;
        kernels.first(job, piece, sums);
        kernels.second(job, piece, {1e-3, 2e-3, 0.5});
        uint64_t value = hash(sums, sizeof sums, 0xcbf29ce484222325u);
        value = hash(measured, sizeof measured, value);
        value = hash(w.data(), w.size(), hash(v.data(), v.size(), value));
        for (auto &moment : s) value = hash(moment.data(), moment.size(), value);
        std::printf("%d %d %d %016llx\n", direction, kind, narrow, static_cast<unsigned long long>(value));
      }
    }
  }
}
