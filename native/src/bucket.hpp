// A bucket of parameters that share every option, and its step: accumulate, rule, apply.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "job.hpp"
#include "rules.hpp"
#include "scratch.hpp"
#include "watch.hpp"

namespace layerpace {

// The numbers of a step, one a layer: float64 and bool vectors that Python holds; null: absent.
struct Vectors {
  const double *t = nullptr, *lr = nullptr, *weight_decay = nullptr;
  const bool *ok = nullptr, *undecayed = nullptr, *excluded = nullptr;
  double *c = nullptr, *b = nullptr, *ratio = nullptr;
  double *table = nullptr;     // [layers, columns]
  double *measured = nullptr;  // [layers, MEASURED_COUNT]; null: nobody reads it
};

// What a call is asked for. Vectors come as tensors, which are looked at when they are used.
struct Request {
  std::vector<double> options;  // of the direction
  double t = 0;                 // number of the step, where vectors.t is absent
  std::vector<int> columns;     // of the table
  uint64_t seed = 0;
  int threads = 1;
  bool lr_outside = false;  // of the velocity: lr multiplies what is subtracted
  bool measure = false;     // add up what monitors read
  nb::object t_L, lr_L, weight_decay_L, ok_L, undecayed_L, excluded_L, c_L, b_L, ratio_L, table_LC, measured_LM;
};

class Bucket {
 public:
  // states: names of the direction's moments; direction_memory, rule_memory: of their number a layer, or "".
  // sizes: for each parameter the entries of dimension 0 in each layer; empty: the parameter is one layer.
  Bucket(nb::object watch, std::vector<std::string> states, const std::string &direction_memory,
         const std::string &rule_memory, const std::vector<std::vector<int64_t>> &sizes);

  // Options, set anew before each step; the rule is that of `step`.
  void set_job(const Job &job);
  void set_rule(const Rule &rule);

  void gradient_sums(const Request &request);
  void accumulate(const Request &request);
  void apply(const Request &request);
  void step(const Request &request);  // all of it, a layer after the other while it is in the cache

  Bucket(const Bucket &) = delete;
  Bucket &operator=(const Bucket &) = delete;

  PyObject *watch_object() const { return owner_.ptr(); }

 private:
  struct Layer {
    size_t param;
    int64_t first, n;           // entries of the parameter
    size_t chunk, chunks;       // its partial sums
    double *direction_memory, *rule_memory;
    int64_t memory_rows;        // direction_memory is repeated so often
    char *kept;                 // u from pass 1 to pass 2, or null
    size_t before;              // the layer that had `kept` before; itself: none had
  };
  // What threads tell each other of a layer.
  struct Progress {
    std::atomic<int64_t> left{0};
    std::atomic<bool> decided{false};
    std::atomic<int64_t> unmoved{0};  // chunks that pass 2 has still to move
    Coefficients coefficients;
  };
  // The chunks of a large layer that one thread has still to take in one pass.
  struct alignas(64) Share {
    std::atomic<int64_t> taken{0};
  };
  struct Batch {
    size_t begin, end;  // small layers
  };

  template <class Run>
  void call(const Request &request, Run run);
  void begin(const Request &request);
  Piece piece(const Layer &layer, size_t chunk) const;
  Piece piece_before(size_t layer, size_t chunk, size_t next_chunk, Piece &next) const;
  bool held_back(size_t layer) const { return vectors_.ok && !vectors_.ok[layer]; }
  bool one_pass(size_t layer) const;
  bool keeps_u() const;
  bool in_cache(const Layer &layer) const;
  void make_room(int passes);
  void sum_chunk(size_t layer, size_t chunk);
  void finish_sums(size_t layer);
  LayerFacts facts_of(size_t layer) const;
  void remember(size_t layer);
  void decide_layer(size_t layer);
  void whole_layer(size_t layer, bool more);
  void small_layer(size_t layer, bool more, int passes);
  void chunk_first(size_t layer, size_t chunk);
  void chunk_second(size_t layer, size_t chunk);
  template <class Run>
  void sweep(size_t large, int pass, int thread, int threads, Run run);
  void first_pass(size_t large, int thread, int threads);
  void second_pass(size_t large, int thread, int threads);
  void prepare_constants();
  void write_table() const;
  void take_over_squares();
  void write_measured() const;
  void arrange();
  void run(int passes);  // 1: the first, 2: the second, 3: both

  nb::object owner_;  // of watch_
  const Watch &watch_;
  std::vector<int> states_;
  int velocity_, master_;
  Storage param_storage_, moment_storage_;
  int64_t entry_bytes_, working_bytes_;
  std::vector<Layer> layers_;
  std::vector<double> partial_, row_, constants_, measured_;
  std::unique_ptr<Progress[]> progress_;
  Scratch kept_[2];
  int room_for_ = -1;  // the passes that `kept` of the layers is for
  std::vector<size_t> large_;    // layers that threads share
  std::vector<Batch> batches_;   // small ones, each of one thread
  std::vector<Share> shares_;    // [large, pass, thread]
  bool constants_by_layer_ = false;
  Job job;
  Rule rule, next_rule_;  // of this call, and of the next `step`
  const Request *request_ = nullptr;
  Vectors vectors_;
  int threads_ = 1;
  bool accumulated_ = false;  // `apply` has something to apply
  void (*sums_)(const Job &, const Piece &, double *) = nullptr;
};

const Kernels &kernels();                     // of the instruction set in use
std::vector<std::string> instruction_sets();  // that this machine has, the best last
void use_instruction_set(const std::string &name);

}  // namespace layerpace
