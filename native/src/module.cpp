// The Python module layerpace.engine.backends.cpu._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bandwidth.hpp"
#include "bucket.hpp"
#include "moves.hpp"
#include "numbers.hpp"
#include "threads.hpp"
#include "watch.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace layerpace;

namespace {

// So many tensors of one dtype, whose memory is as it is in `like`, if that is given.
struct Given {
  std::vector<Description> tensors;
  std::vector<int64_t> entries;
  Tensors at;
};

Given given(nb::list list, const char *what, const Given *like = nullptr) {
  Given out;
  if (like && like->tensors.size() != nb::len(list)) throw nb::value_error("lists of different lengths");
  for (nb::handle tensor : list) {
    out.tensors.push_back(on_host(tensor, what));
    const Description &found = out.tensors.back();
    const Storage storage = storage_of(found.dtype, what);
    const size_t i = out.tensors.size() - 1;
    if (found.dtype.code == dlpack::kComplex || (i > 0 && storage != out.at.storage) ||
        !same_layout(found, like ? like->tensors[i] : found)) {
      throw nb::value_error("tensors of several dtypes, shapes or layouts");
    }
    out.at.storage = storage, out.at.at.push_back(found.data), out.entries.push_back(found.numel());
  }
  return out;
}

double *table_of(nb::handle tensor, const Given &of, int64_t columns) {
  double *out = numbers(tensor, static_cast<int64_t>(of.entries.size()) * columns, "the table");
  if (!out) throw nb::value_error("there is no table");
  return out;
}

void moves_of(nb::list old, nb::list now, int threads, nb::handle table) {
  const Given b = given(now, "a weight"), a = given(old, "an old weight", &b);
  if ((a.at.storage == Storage::f64) != (b.at.storage == Storage::f64)) throw nb::value_error("float64 on one side alone");
  double *out = table_of(table, b, 5);
  nb::gil_scoped_release unlocked;
  sum_moves(a.at, b.at, b.entries, threads, out);
}

void squares_of(nb::list x, int threads, nb::handle table) {
  const Given all = given(x, "a tensor");
  double *out = table_of(table, all, 1);
  nb::gil_scoped_release unlocked;
  sum_squares(all.at, all.entries, threads, out);
}

void copy_of(nb::list from, nb::list to, int threads) {
  if (nb::len(from) != nb::len(to)) throw nb::value_error("lists of different lengths");
  std::vector<const void *> sources;
  std::vector<void *> targets;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < nb::len(from); ++i) {
    const Description a = on_host(from[i], "a tensor"), b = on_host(to[i], "a copy");
    const int64_t size = a.numel() * a.dtype.lanes * (a.dtype.bits / 8);
    const auto source = reinterpret_cast<uintptr_t>(a.data), target = reinterpret_cast<uintptr_t>(b.data);
    if (a.dtype.code != b.dtype.code || a.dtype.bits != b.dtype.bits || a.dtype.lanes != b.dtype.lanes ||
        a.dtype.bits % 8 || a.shape != b.shape || !same_layout(a, b) ||
        (source < target + static_cast<uintptr_t>(size) && target < source + static_cast<uintptr_t>(size))) {
      throw nb::value_error("tensors of several dtypes, shapes or layouts, or of the same memory");
    }
    sources.push_back(a.data), targets.push_back(b.data), sizes.push_back(size);
  }
  nb::gil_scoped_release unlocked;
  copy_tensors(sources, targets, sizes, threads);
}

#ifdef LP_HAS_NUMBERS
std::string format_tensor(nb::handle tensor) {
  const int64_t n = on_host(tensor, "the numbers").numel();
  return format_numbers(numbers(tensor, n, "the numbers"), static_cast<size_t>(n));
}
#endif

Job job(int direction, double gradient_factor, double l2, int update, double momentum, double keep, int low_precision,
        double eps, double floor) {
  Job out;
  if (direction < 0 || direction >= kDirections) throw nb::value_error("no such direction");
  if (update < kDisplace || update > kNesterovVelocity) throw nb::value_error("no such update");
  if (low_precision < 0 || low_precision > static_cast<int>(LowPrecision::stochastic)) throw nb::value_error("no such mode");
  out.direction = static_cast<DirectionId>(direction), out.gradient_factor = gradient_factor, out.l2 = l2;
  out.update = static_cast<UpdateId>(update), out.momentum = momentum, out.keep = keep;
  out.low_precision = static_cast<LowPrecision>(low_precision), out.eps = eps, out.floor = floor;
  return out;
}

Rule rule(int id, double min_rms, double coefficient, double eps, int norm, int clip, double lower, double upper,
          bool always_adapt, bool has_zero_ratio, double zero_ratio, double parallel) {
  if (id < 0 || id > static_cast<int>(RuleId::rotation)) throw nb::value_error("no such rule");
  if (norm < 0 || norm > 2 || clip < 0 || clip > 2) throw nb::value_error("no such norm or clip");
  return {static_cast<RuleId>(id), min_rms, coefficient,    eps,        norm,    clip, lower, upper,
          always_adapt,            has_zero_ratio, zero_ratio, parallel};
}

// The garbage collector sees what a Watch and a Bucket hold: a parameter may refer to its optimizer.
int traverse_watch(PyObject *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  return nb::inst_ptr<Watch>(self)->visit([&](PyObject *object) {
    Py_VISIT(object);
    return 0;
  });
}
int clear_watch(PyObject *self) {
  if (nb::inst_ready(self)) nb::inst_ptr<Watch>(self)->clear();
  return 0;
}
int traverse_bucket(PyObject *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  if (nb::inst_ready(self)) Py_VISIT(nb::inst_ptr<Bucket>(self)->watch_object());
  return 0;
}
PyType_Slot watch_slots[] = {{Py_tp_traverse, reinterpret_cast<void *>(traverse_watch)},
                             {Py_tp_clear, reinterpret_cast<void *>(clear_watch)},
                             {0, nullptr}};
PyType_Slot bucket_slots[] = {{Py_tp_traverse, reinterpret_cast<void *>(traverse_bucket)}, {0, nullptr}};

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);
  forked();  // from now on a fork is noticed
  m.doc() = "The fused CPU step; see native/README.md.";

  nb::class_<Watch>(m, "Watch", nb::type_slots(watch_slots),
                    "Tensors that a step rests on; see layerpace.engine.backends.protocol.")
      .def(nb::init<nb::list, nb::list, nb::list, std::vector<std::string>>(), "params"_a, "grads"_a, "states"_a,
           "names"_a)
      .def("check", &Watch::check, "threads"_a = 1)
      .def("release", &Watch::release)
      .def("grads", &Watch::grads)
      .def("count", &Watch::count);
  using Spans = std::vector<std::pair<uintptr_t, uintptr_t>>;
  m.def("keep_apart", [](const std::vector<Watch *> &watches, const Spans &written, const Spans &read) {
    for (const Watch *watch : watches) {
      if (!watch) throw nb::type_error("None is no watch");
    }
    auto spans = [](const Spans &pairs) {
      std::vector<Span> out;
      for (const auto &[begin, end] : pairs) out.push_back({begin, end});
      return out;
    };
    return Watch::keep_apart(watches, spans(written), spans(read));
  }, "watches"_a, "written"_a, "read"_a);
  m.def("use_exchange_api", &use_exchange_api, "on"_a);

  nb::class_<Job>(m, "Job").def("__init__", [](Job *self, int direction, double gradient_factor, double l2, int update,
                                               double momentum, double keep, int low_precision, double eps,
                                               double floor) {
    new (self) Job(job(direction, gradient_factor, l2, update, momentum, keep, low_precision, eps, floor));
  }, nb::kw_only(), "direction"_a, "gradient_factor"_a, "l2"_a, "update"_a, "momentum"_a, "keep"_a, "low_precision"_a,
      "eps"_a, "floor"_a);

  nb::class_<Rule>(m, "Rule").def("__init__", [](Rule *self, int id, double min_rms, double coefficient, double eps,
                                                 int norm, int clip, double lower, double upper, bool always_adapt,
                                                 bool has_zero_ratio, double zero_ratio, double parallel) {
    new (self) Rule(rule(id, min_rms, coefficient, eps, norm, clip, lower, upper, always_adapt, has_zero_ratio,
                         zero_ratio, parallel));
  }, nb::kw_only(), "id"_a, "min_rms"_a, "coefficient"_a = 1.0, "eps"_a = 0.0, "norm"_a = 0, "clip"_a = 0,
      "lower"_a = 0.0, "upper"_a = 0.0, "always_adapt"_a = true, "has_zero_ratio"_a = false, "zero_ratio"_a = 0.0,
      "parallel"_a = 0.0);

  nb::class_<Request>(m, "Request").def("__init__", [](Request *self, const std::vector<double> &options, double t,
      const std::vector<int> &columns, uint64_t seed, int threads, bool lr_outside, bool measure, nb::object t_L,
      nb::object lr_L, nb::object weight_decay_L, nb::object ok_L, nb::object undecayed_L, nb::object excluded_L,
      nb::object c_L, nb::object b_L, nb::object ratio_L, nb::object table_LC, nb::object measured_LM) {
    for (int column : columns) {
      if (column < 0 || column >= COLUMN_COUNT) throw nb::value_error("no such column");
    }
    new (self) Request{options, t, columns, seed, threads, lr_outside, measure, t_L, lr_L, weight_decay_L, ok_L,
                       undecayed_L, excluded_L, c_L, b_L, ratio_L, table_LC, measured_LM};
  }, nb::kw_only(), "options"_a = std::vector<double>(), "t"_a = 0.0, "columns"_a = std::vector<int>(), "seed"_a = 0,
      "threads"_a = 1, "lr_outside"_a = false, "measure"_a = false, "t_L"_a = nb::none(), "lr_L"_a = nb::none(),
      "weight_decay_L"_a = nb::none(), "ok_L"_a = nb::none(), "undecayed_L"_a = nb::none(), "excluded_L"_a = nb::none(),
      "c_L"_a = nb::none(), "b_L"_a = nb::none(), "ratio_L"_a = nb::none(), "table_LC"_a = nb::none(),
      "measured_LM"_a = nb::none());

  nb::class_<Bucket>(m, "Bucket", nb::type_slots(bucket_slots))
      .def(nb::init<nb::object, std::vector<std::string>, const std::string &, const std::string &,
                    const std::vector<std::vector<int64_t>> &>(),
           "watch"_a, "states"_a, "direction_memory"_a, "rule_memory"_a, "sizes"_a)
      .def("set_job", &Bucket::set_job, "job"_a)
      .def("set_rule", &Bucket::set_rule, "rule"_a)
      .def("gradient_sums", &Bucket::gradient_sums, "request"_a)
      .def("accumulate", &Bucket::accumulate, "request"_a)
      .def("apply", &Bucket::apply, "request"_a)
      .def("step", &Bucket::step, "request"_a);

  m.def("sum_moves", &moves_of, "old"_a, "now"_a, "threads"_a, "table"_a);
  m.def("copy_tensors", &copy_of, "tensors"_a, "to"_a, "threads"_a);
  m.def("sum_squares", &squares_of, "tensors"_a, "threads"_a, "table"_a);
#ifdef LP_HAS_NUMBERS
  m.def("format_numbers", &format_tensor, "numbers"_a);
#endif

  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("use_instruction_set", &use_instruction_set, "name"_a);
  m.def("bandwidth", [](int64_t n, int threads, int repetitions) {
    Bandwidth found = measure_bandwidth(n, threads, repetitions);
    return std::pair(found.read, found.update);
  }, "n"_a, "threads"_a, "repetitions"_a, nb::call_guard<nb::gil_scoped_release>());
}
