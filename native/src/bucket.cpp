#include "bucket.hpp"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "threads.hpp"

namespace layerpace {

namespace {

// The sums of a layer are those of its chunks, added in their order: the same bits for any number of threads.
constexpr int64_t CHUNK = 1 << 14;
// Small layers are taken together until they have so many entries, so that taking them costs nothing beside the work.
constexpr int64_t SHARED_TASK = 1 << 14;

// The most memory for u of one layer; larger ones make u again.
constexpr int64_t LARGEST_KEPT = int64_t{1} << 30;

constexpr double LARGEST_FLOAT = 3.4028234663852886e38, LARGEST_DOUBLE = 1.7976931348623157e308;

// A layer of so many bytes stays in one core's cache from the first pass to the second.
int64_t cached_bytes() {
  static const int64_t bytes = [] {
    int64_t size = -1;
#ifdef _SC_LEVEL2_CACHE_SIZE
    size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return (size > 0 ? size : int64_t{512} << 10) * 3 / 4;
  }();
  return bytes;
}

uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

std::vector<const Kernels *> supported() {
  std::vector<const Kernels *> out{&kernels_baseline};
#ifdef LP_X86
  // Every CPU with AVX2 has F16C, which not every compiler can ask for.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back(&kernels_avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      out.push_back(&kernels_avx512);
    }
  }
#endif
  return out;
}

std::atomic<const Kernels *> chosen{nullptr};

// Memory of the calling thread, kept for its next layers.
char *scratch(int64_t size) {
  static thread_local std::vector<char> memory;
  if (static_cast<int64_t>(memory.size()) < size) memory.resize(static_cast<size_t>(size));
  return memory.data();
}

}  // namespace

const Kernels &kernels() {
  const Kernels *found = chosen.load();
  if (!found) chosen.store(found = supported().back());
  return *found;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels *set : supported()) names.push_back(set->name);
  return names;
}

void use_instruction_set(const std::string &name) {
  for (const Kernels *set : supported()) {
    if (set->name == name) {
      chosen.store(set);
      return;
    }
  }
  throw std::invalid_argument("this machine does not have the instruction set " + name);
}

Bucket::Bucket(nb::object owner, std::vector<std::string> states, const std::string &direction_memory,
               const std::string &rule_memory, const std::vector<std::vector<int64_t>> &sizes)
    : owner_(std::move(owner)),
      watch_(nb::cast<const Watch &>(owner_)),
      velocity_(watch_.state_index("velocity")),
      master_(watch_.state_index("master")) {
  const Watch &watch = watch_;
  const Watch::Use use(watch);
  auto index = [&](const std::string &name) {
    int at = watch.state_index(name);
    if (at < 0) throw std::invalid_argument("the state " + name + " is not watched");
    return at;
  };
  for (const auto &name : states) states_.push_back(index(name));
  const int of_direction = direction_memory.empty() ? -1 : index(direction_memory);
  const int of_rule = rule_memory.empty() ? -1 : index(rule_memory);
  if (states_.size() > std::size(Piece{}.s)) throw std::invalid_argument("more moments than a direction has");
  if (watch.size() == 0 || sizes.size() != watch.size()) throw std::invalid_argument("no parameters, or no sizes");

  param_storage_ = storage_of(watch.param(0).dtype, "a parameter");
  std::vector<int> moments = states_;
  if (velocity_ >= 0) moments.push_back(velocity_);
  const bool wide = param_storage_ == Storage::f64;
  working_bytes_ = wide ? 8 : 4;
  moment_storage_ = moments.empty() ? (wide ? Storage::f64 : Storage::f32)
                                    : storage_of(watch.state(0, moments[0]).dtype, "a moment");
  const Storage working = wide ? Storage::f64 : Storage::f32;
  if ((moment_storage_ != working && (wide || moment_storage_ != Storage::bf16)) ||
      (master_ >= 0 && bytes(param_storage_) != 2)) {
    throw std::invalid_argument("no kernel for moments or a master copy of this dtype");
  }
  entry_bytes_ = 2 * bytes(param_storage_) + static_cast<int64_t>(moments.size()) * bytes(moment_storage_) +
                 (master_ >= 0 ? 4 : 0) + working_bytes_;

  size_t chunks = 0;
  for (size_t i = 0; i < watch.size(); ++i) {
    const Description &param = watch.param(i);
    const std::vector<int64_t> &rows = sizes[i];
    const int64_t numel = param.reals();
    auto check = [&](const Description &other, Storage storage, const char *what) {
      if (storage_of(other.dtype, what) != storage || !other.has_memory() || other.reals() != numel ||
          !same_layout(param, other, !rows.empty())) {
        throw std::invalid_argument(std::string("no kernel for the dtype, the shape or the memory of ") + what);
      }
    };
    check(param, param_storage_, "a parameter");
    check(watch.grad(i), param_storage_, "a gradient");
    for (int moment : moments) check(watch.state(i, moment), moment_storage_, "a moment");
    if (master_ >= 0) check(watch.state(i, master_), Storage::f32, "a master copy");
    auto check_numbers = [&](int state, int64_t count) {
      const Description &numbers = watch.state(i, state);
      if (numbers.dtype.code != dlpack::kFloat || numbers.dtype.bits != 64 || !numbers.has_memory() ||
          numbers.numel() != count || !numbers.contiguous()) {
        throw std::invalid_argument("a number of each layer is not float64, or of another shape");
      }
    };
    if (!rows.empty()) {
      int64_t left = param.shape.empty() ? -1 : param.shape[0];
      for (int64_t size : rows) left = size < 0 || size > left ? -1 : left - size;
      if (left != 0) throw std::invalid_argument("the layers of a parameter are not all of it");
    }
    if (of_direction >= 0) check_numbers(of_direction, rows.empty() ? 1 : param.shape[0]);
    if (of_rule >= 0) check_numbers(of_rule, rows.empty() ? 1 : static_cast<int64_t>(rows.size()));
    const int64_t row = rows.empty() ? numel : numel / std::max<int64_t>(1, param.shape[0]);
    int64_t first = 0, first_row = 0;
    for (size_t part = 0; part < std::max<size_t>(1, rows.size()); ++part) {
      Layer layer{};
      layer.param = i, layer.first = first, layer.n = rows.empty() ? numel : rows[part] * row;
      layer.chunk = chunks, layer.chunks = static_cast<size_t>((layer.n + CHUNK - 1) / CHUNK);
      layer.memory_rows = rows.empty() ? 1 : rows[part];
      if (of_direction >= 0) {
        layer.direction_memory = static_cast<double *>(watch.state(i, of_direction).data) + first_row;
      }
      if (of_rule >= 0) layer.rule_memory = static_cast<double *>(watch.state(i, of_rule).data) + part;
      chunks += layer.chunks, first += layer.n, first_row += layer.memory_rows;
      layers_.push_back(layer);
    }
  }
  arrange();
  partial_.resize(chunks * COLUMN_COUNT);
  row_.resize(layers_.size() * COLUMN_COUNT);
  progress_.reset(new Progress[layers_.size()]);
}

void Bucket::set_job(const Job &next) {
  const Watch::Use use(watch_);
  job = next;
}

void Bucket::set_rule(const Rule &next) {
  const Watch::Use use(watch_);
  next_rule_ = next;
}

// The tensors stay what they are while `run` runs, without the interpreter's lock.
template <class Run>
void Bucket::call(const Request &request, Run run) {
  const Watch::Use use(watch_);
  begin(request);
  nb::gil_scoped_release unlocked;
  run();
}

void Bucket::begin(const Request &request) {
  request_ = &request;
  threads_ = usable_threads(request.threads);
  const auto rows = static_cast<int64_t>(layers_.size());
  vectors_.t = numbers(request.t_L, rows, "t_L"), vectors_.lr = numbers(request.lr_L, rows, "lr_L");
  vectors_.weight_decay = numbers(request.weight_decay_L, rows, "weight_decay_L");
  vectors_.ok = flags(request.ok_L, rows, "ok_L"), vectors_.undecayed = flags(request.undecayed_L, rows, "undecayed_L");
  vectors_.excluded = flags(request.excluded_L, rows, "excluded_L");
  vectors_.c = numbers(request.c_L, rows, "c_L"), vectors_.b = numbers(request.b_L, rows, "b_L");
  vectors_.ratio = numbers(request.ratio_L, rows, "ratio_L");
  vectors_.table = numbers(request.table_LC, rows * static_cast<int64_t>(request.columns.size()), "table_LC");
  vectors_.measured = numbers(request.measured_LM, rows * MEASURED_COUNT, "measured_LM");
  if (vectors_.measured && !request.measure) throw std::invalid_argument("measured_LM without measure");
  if (static_cast<size_t>(kernels().states(job.direction)) != states_.size() ||
      (job.direction == kNAdam && !layers_[0].direction_memory) || (job.update != kDisplace && velocity_ < 0)) {
    throw std::invalid_argument("the direction or the update needs other state than there is");
  }
  job.param = param_storage_, job.moment = moment_storage_;
  job.columns = 0;
  for (int column : request.columns) job.columns |= 1u << column;
  if (request.measure) measured_.resize(partial_.size() / COLUMN_COUNT * MEASURED_COUNT);
}

// The constants of the direction: one set for all layers, unless their step counts or their memories differ.
void Bucket::prepare_constants() {
  const Vectors &vectors = vectors_;
  std::vector<double> options(request_->options);
  options.resize(CONSTANTS);
  constants_by_layer_ = vectors.t || layers_[0].direction_memory;
  constants_.resize(constants_by_layer_ ? layers_.size() * CONSTANTS : CONSTANTS);
  for (size_t layer = 0; layer < (constants_by_layer_ ? layers_.size() : 1); ++layer) {
    if (constants_by_layer_ && held_back(layer)) continue;
    double *memory = layers_[layer].direction_memory;
    kernels().prepare(job.direction, options.data(), vectors.t ? vectors.t[layer] : request_->t, memory,
                      &constants_[layer * CONSTANTS]);
    for (int64_t row = 1; memory && row < layers_[layer].memory_rows; ++row) memory[row] = memory[0];
  }
}

void Bucket::gradient_sums(const Request &request) {
  call(request, [this] {
    rule = Rule{};
    sums_ = kernels().gradient;
    run(1);
    write_table();
  });
}

void Bucket::accumulate(const Request &request) {
  call(request, [this] {
    rule = Rule{};
    make_room(1);
    prepare_constants();
    sums_ = kernels().first;
    run(1);
    write_table();
    take_over_squares();
    accumulated_ = true;
  });
}

void Bucket::apply(const Request &request) {
  if (!accumulated_) throw std::runtime_error("accumulate comes before apply");
  if (request.b_L.is_none()) throw std::invalid_argument("b_L is missing");
  call(request, [this] {
    rule = Rule{};
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      progress_[layer].coefficients = {vectors_.c ? vectors_.c[layer] : 0.0, vectors_.b[layer],
                                       vectors_.lr ? vectors_.lr[layer] : 1.0};
    }
    accumulated_ = false;
    run(2);
    write_measured();
  });
}

void Bucket::step(const Request &request) {
  for (const nb::object *needed : {&request.lr_L, &request.weight_decay_L, &request.c_L, &request.b_L, &request.ratio_L}) {
    if (needed->is_none()) throw std::invalid_argument("a vector of the layers is missing");
  }
  if (next_rule_.id == RuleId::none || (next_rule_.id == RuleId::rotation && !layers_[0].rule_memory)) {
    throw std::invalid_argument("there is no rule, or not what it remembers");
  }
  call(request, [this] {
    rule = next_rule_;
    accumulated_ = false;
    make_room(3);
    prepare_constants();
    sums_ = kernels().first;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      if (one_pass(layer)) decide_layer(layer);
    }
    run(3);
    write_table();
    take_over_squares();
    write_measured();
  });
}

void Bucket::write_table() const {
  const auto &columns = request_->columns;
  double *out = vectors_.table;
  for (size_t layer = 0; out && layer < layers_.size(); ++layer) {
    for (int column : columns) *out++ = row_[layer * COLUMN_COUNT + column];
  }
}

// The squares of the gradient, where the table has them: in the place of the first chunk's.
void Bucket::take_over_squares() {
  if (!request_->measure || !job.squares_are_u()) return;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (size_t chunk = 0; chunk < layers_[layer].chunks; ++chunk) {
      double &squares = measured_[(layers_[layer].chunk + chunk) * MEASURED_COUNT + M_GG];
      squares = chunk == 0 ? row_[layer * COLUMN_COUNT + UU] : 0.0;
    }
  }
}

void Bucket::write_measured() const {
  double *out = vectors_.measured;
  for (size_t layer = 0; out && layer < layers_.size(); ++layer, out += MEASURED_COUNT) {
    for (int column = 0; column < MEASURED_COUNT; ++column) {
      double sum = 0;
      for (size_t chunk = 0; chunk < layers_[layer].chunks; ++chunk) {
        sum += measured_[(layers_[layer].chunk + chunk) * MEASURED_COUNT + column];
      }
      out[column] = held_back(layer) ? std::numeric_limits<double>::quiet_NaN() : sum;
    }
  }
}

Piece Bucket::piece(const Layer &layer, size_t chunk) const {
  const int64_t skipped = static_cast<int64_t>(chunk) * CHUNK, first = layer.first + skipped;
  auto at = [first](const Description &tensor, Storage storage) {
    return static_cast<void *>(static_cast<char *>(tensor.data) + first * bytes(storage));
  };
  Piece out{};
  out.w = at(watch_.param(layer.param), param_storage_);
  out.g = at(watch_.grad(layer.param), param_storage_);
  for (size_t j = 0; j < states_.size(); ++j) out.s[j] = at(watch_.state(layer.param, states_[j]), moment_storage_);
  if (velocity_ >= 0) out.v = at(watch_.state(layer.param, velocity_), moment_storage_);
  if (master_ >= 0) out.master = static_cast<float *>(at(watch_.state(layer.param, master_), Storage::f32));
  out.n = std::min(CHUNK, layer.n - skipped);
  const size_t index = static_cast<size_t>(&layer - layers_.data());
  out.constants = constants_.data() + (constants_by_layer_ ? index * CONSTANTS : 0);
  out.key = mix64(request_->seed + layer.param);
  out.first = static_cast<uint64_t>(first);
  out.large = layer.n >= LARGE_LAYER;
  if (request_->measure) out.measured = const_cast<double *>(&measured_[(layer.chunk + chunk) * MEASURED_COUNT]);
  if (layer.kept) out.kept = layer.kept + skipped * working_bytes_;
  return out;
}

// A piece that knows which one its thread takes afterwards, if there is such a chunk.
Piece Bucket::piece_before(size_t layer, size_t chunk, size_t next_chunk, Piece &next) const {
  Piece out = piece(layers_[layer], chunk);
  if (next_chunk < layers_[layer].chunks) {
    next = piece(layers_[layer], next_chunk);
    out.next = &next;
  }
  return out;
}

bool Bucket::one_pass(size_t layer) const {
  return rule.id == RuleId::identity || (vectors_.excluded && vectors_.excluded[layer]);
}

// Whether u is kept from the first pass to the second: it costs less to read than the moments that it is made of. The
// gradient is a u that is there already, and so is a moment, unless it is rounded: all of a step goes by the u of its
// first pass.
bool Bucket::keeps_u() const {
  if (job.direction == kSGD) return false;
  if (bytes(moment_storage_) < working_bytes_) return true;
  const DirectionId own[] = {kHeavyBall, kEMAMomentum, kRMSPropMomentum, kRMSPropCenteredMomentum};
  return std::find(std::begin(own), std::end(own), job.direction) == std::end(own);
}

// Gives large layers room to keep u in: in a whole step two of them take turns, since the next one starts while threads
// are still at the last one; if the passes are calls of their own, every layer has its own room, for narrow moments.
void Bucket::make_room(int passes) {
  if (room_for_ == passes) return;
  room_for_ = -1;
  const bool narrow = bytes(moment_storage_) < working_bytes_;
  auto room_of = [&](const Layer &layer) { return static_cast<int64_t>(layer.chunks) * CHUNK * working_bytes_; };
  std::vector<Layer *> keeping;
  for (Layer &layer : layers_) {
    layer.kept = nullptr, layer.before = static_cast<size_t>(&layer - layers_.data());
    bool wants = narrow;
    if (passes == 3) wants = !in_cache(layer) && !one_pass(layer.before) && (narrow || room_of(layer) <= LARGEST_KEPT);
    if (wants && keeps_u()) keeping.push_back(&layer);
  }
  auto give = [&](size_t turn, int64_t size) {
    char *memory = kept_[turn].room(size);
    if (!memory && narrow && size > 0) throw std::bad_alloc();  // else u is made again
    return memory;
  };
  room_for_ = passes;
  if (passes == 3) {
    for (size_t turn = 0; turn < 2; ++turn) {
      int64_t size = 0;
      for (size_t i = turn; i < keeping.size(); i += 2) size = std::max(size, room_of(*keeping[i]));
      char *memory = give(turn, size);
      for (size_t i = turn; i < keeping.size(); i += 2) {
        keeping[i]->kept = memory;
        if (memory && i >= 2) keeping[i]->before = static_cast<size_t>(keeping[i - 2] - layers_.data());
      }
    }
    return;
  }
  int64_t size = 0;
  for (Layer *layer : keeping) size += room_of(*layer);
  char *memory = give(0, size);
  for (Layer *layer : keeping) layer->kept = memory, memory += room_of(*layer);
}

bool Bucket::in_cache(const Layer &layer) const { return layer.n * entry_bytes_ <= cached_bytes(); }

void Bucket::sum_chunk(size_t layer, size_t chunk) {
  Piece next;
  sums_(job, piece_before(layer, chunk, chunk + 1, next), &partial_[(layers_[layer].chunk + chunk) * COLUMN_COUNT]);
}

void Bucket::finish_sums(size_t layer) {
  double *row = &row_[layer * COLUMN_COUNT];
  for (size_t chunk = 0; chunk < layers_[layer].chunks; ++chunk) {
    const double *part = &partial_[(layers_[layer].chunk + chunk) * COLUMN_COUNT];
    for (int column = 0; column < COLUMN_COUNT; ++column) {
      if (job.columns >> column & 1) row[column] += part[column];
    }
  }
}

LayerFacts Bucket::facts_of(size_t layer) const {
  const Vectors &vectors = vectors_;
  LayerFacts facts{};
  facts.n = static_cast<double>(layers_[layer].n);
  facts.lr = vectors.lr[layer], facts.weight_decay = vectors.weight_decay[layer];
  facts.undecayed = vectors.undecayed && vectors.undecayed[layer];
  facts.excluded = vectors.excluded && vectors.excluded[layer];
  facts.first = (vectors.t ? vectors.t[layer] : request_->t) == 1;
  facts.memory = layers_[layer].rule_memory;
  return facts;
}

// What the rule remembers of the first step, also of a layer that does not follow it: that may change.
void Bucket::remember(size_t layer) {
  const LayerFacts facts = facts_of(layer);
  if (facts.memory && facts.first) *facts.memory = rules::phi(row_[layer * COLUMN_COUNT + WW], facts, rule);
}

void Bucket::decide_layer(size_t layer) {
  const Vectors &vectors = vectors_;
  const LayerFacts facts = facts_of(layer);
  const Decision found = decide(&row_[layer * COLUMN_COUNT], facts, rule);
  vectors.c[layer] = found.c, vectors.b[layer] = found.b, vectors.ratio[layer] = found.ratio;
  Coefficients out{found.c, found.b, 1.0};
  if (request_->lr_outside) out = {found.ratio * facts.weight_decay, found.ratio, facts.lr};
  // Beyond what weights are computed in they would be inf, and nan times a zero. nan stays.
  const double largest = param_storage_ == Storage::f64 ? LARGEST_DOUBLE : LARGEST_FLOAT;
  out.c = rules::clamp(out.c, -largest, largest), out.b = rules::clamp(out.b, -largest, largest);
  progress_[layer].coefficients = out;
}

// Both passes over a layer that stays in the cache; `more` says that this thread takes the next layer, too.
void Bucket::whole_layer(size_t layer, bool more) {
  if (held_back(layer)) return;
  const Layer &own = layers_[layer];
  const bool once = one_pass(layer);
  char *kept = !once && keeps_u() ? scratch(static_cast<int64_t>(own.chunks) * CHUNK * working_bytes_) : nullptr;
  Piece next_layer;
  more = more && layers_[layer + 1].chunks > 0;
  if (more) next_layer = piece(layers_[layer + 1], 0);
  auto each_chunk = [&](auto run) {
    for (size_t chunk = 0; chunk < own.chunks; ++chunk) {
      Piece part = piece(own, chunk), next = next_layer;
      if (kept) part.kept = kept + static_cast<int64_t>(chunk) * CHUNK * working_bytes_;
      if (chunk + 1 < own.chunks) {
        next = piece(own, chunk + 1);
        part.next = &next;
      } else if (more) {
        part.next = &next_layer;
      }
      run(part, &partial_[(own.chunk + chunk) * COLUMN_COUNT]);
    }
  };
  const Coefficients &coefficients = progress_[layer].coefficients;
  if (once) {
    each_chunk([&](const Piece &part, double *sums) { kernels().whole(job, part, coefficients, sums); });
    finish_sums(layer);
    remember(layer);
    return;
  }
  each_chunk([&](const Piece &part, double *sums) { sums_(job, part, sums); });
  finish_sums(layer);
  decide_layer(layer);
  each_chunk([&](const Piece &part, double *) { kernels().second(job, part, coefficients); });
}

void Bucket::small_layer(size_t layer, bool more, int passes) {
  if (passes == 3) return whole_layer(layer, more);
  if (held_back(layer)) return;
  for (size_t chunk = 0; chunk < layers_[layer].chunks; ++chunk) {
    passes == 1 ? sum_chunk(layer, chunk) : chunk_second(layer, chunk);
  }
  if (passes == 1) finish_sums(layer);
}

void Bucket::chunk_first(size_t layer, size_t chunk) {
  if (rule.id != RuleId::none && one_pass(layer)) {
    Piece next;
    kernels().whole(job, piece_before(layer, chunk, chunk + 1, next), progress_[layer].coefficients,
                    &partial_[(layers_[layer].chunk + chunk) * COLUMN_COUNT]);
  } else {
    sum_chunk(layer, chunk);
  }
}

void Bucket::chunk_second(size_t layer, size_t chunk) {
  Piece next;
  kernels().second(job, piece_before(layer, chunk, chunk - 1, next), progress_[layer].coefficients);
}

// Calls run(chunk) for each chunk of a large layer once. Every thread has the same part of the layer in both passes, so
// that the second finds it in the cache of its own core; who is done with that helps the others.
template <class Run>
void Bucket::sweep(size_t large, int pass, int thread, int threads, Run run) {
  const auto chunks = static_cast<int64_t>(layers_[large_[large]].chunks);
  for (int turn = 0; turn < threads; ++turn) {
    const int owner = (thread + turn) % threads;
    const int64_t begin = chunks * owner / threads, end = chunks * (owner + 1) / threads;
    std::atomic<int64_t> &taken = shares_[(large * 2 + static_cast<size_t>(pass)) * static_cast<size_t>(threads) +
                                          static_cast<size_t>(owner)].taken;
    for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < end - begin;) {
      // The second pass goes backwards: what was read last is the part that the cache still has.
      run(static_cast<size_t>(pass == 0 ? begin + i : end - 1 - i));
    }
  }
}

void Bucket::first_pass(size_t large, int thread, int threads) {
  const size_t layer = large_[large];
  Progress &progress = progress_[layer];
  const size_t before = layers_[layer].before;  // its u lies where this layer's will
  if (before != layer) {
    for (int turn = 0; progress_[before].unmoved.load(std::memory_order_acquire) > 0; ++turn) pause_briefly(turn);
  }
  const bool steps = !held_back(layer);
  sweep(large, 0, thread, threads, [&](size_t chunk) {
    if (steps) chunk_first(layer, chunk);
    if (progress.left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    if (steps) {  // this was the last chunk
      finish_sums(layer);
      if (rule.id != RuleId::none) one_pass(layer) ? remember(layer) : decide_layer(layer);
    }
    progress.decided.store(true, std::memory_order_release);
  });
}

void Bucket::second_pass(size_t large, int thread, int threads) {
  const size_t layer = large_[large];
  Progress &progress = progress_[layer];
  const bool together = rule.id != RuleId::none;
  if (held_back(layer) || (together && one_pass(layer))) {
    progress.unmoved.store(0, std::memory_order_release);
    return;
  }
  if (together) {
    for (int turn = 0; !progress.decided.load(std::memory_order_acquire); ++turn) pause_briefly(turn);
  }
  sweep(large, 1, thread, threads, [&](size_t chunk) {
    chunk_second(layer, chunk);
    progress.unmoved.fetch_sub(1, std::memory_order_release);
  });
}

// Large layers first, which all threads share; then small ones, several at a time, which even out the threads' ends.
void Bucket::arrange() {
  size_t begin = 0;
  int64_t entries = 0;
  auto close = [&](size_t end) {
    if (end > begin) batches_.push_back({begin, end});
    begin = end, entries = 0;
  };
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    if (!in_cache(layers_[layer])) {
      large_.push_back(layer);
      close(layer);
      begin = layer + 1;
    } else if ((entries += layers_[layer].n) >= SHARED_TASK) {
      close(layer + 1);
    }
  }
  close(layers_.size());
}

void Bucket::run(int passes) {
  std::fill(row_.begin(), row_.end(), 0.0);
  for (size_t layer : large_) {
    const auto chunks = static_cast<int64_t>(layers_[layer].chunks);
    progress_[layer].left.store(chunks, std::memory_order_relaxed);
    progress_[layer].decided.store(false, std::memory_order_relaxed);
    progress_[layer].unmoved.store(passes == 3 ? chunks : 0, std::memory_order_relaxed);
  }
  std::vector<Share>(large_.size() * 2 * static_cast<size_t>(threads_)).swap(shares_);
  std::atomic<size_t> next{0};
  on_threads(threads_, [&](int thread, int count) {
    for (size_t large = 0; large < large_.size(); ++large) {
      if (passes & 1) first_pass(large, thread, count);
      if (passes & 2) second_pass(large, thread, count);
    }
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < batches_.size();) {
      const Batch batch = batches_[i];
      for (size_t layer = batch.begin; layer < batch.end; ++layer) small_layer(layer, layer + 1 < batch.end, passes);
    }
  });
}

}  // namespace layerpace
