// The Python module layerpace.backends.cpu._native.
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

// Vectors come as addresses: tensors of Python's, checked there, which live as long as the call.
template <class T>
T *pointer(uintptr_t address) {
  return reinterpret_cast<T *>(address);
}

Request request(const std::vector<double> &options, double t, const std::vector<int> &columns, uint64_t seed,
                int threads, bool lr_outside, uintptr_t t_L, uintptr_t lr_L, uintptr_t weight_decay_L,
                uintptr_t ok_L, uintptr_t undecayed_L, uintptr_t excluded_L, uintptr_t c_L, uintptr_t b_L,
                uintptr_t ratio_L, uintptr_t table_LC, bool measure, uintptr_t measured_LM) {
  Request out;
  out.options = options, out.t = t, out.columns = columns, out.seed = seed, out.threads = threads;
  out.lr_outside = lr_outside;
  Vectors &v = out.vectors;
  v.t = pointer<const double>(t_L), v.lr = pointer<const double>(lr_L);
  v.weight_decay = pointer<const double>(weight_decay_L), v.ok = pointer<const bool>(ok_L);
  v.undecayed = pointer<const bool>(undecayed_L), v.excluded = pointer<const bool>(excluded_L);
  v.c = pointer<double>(c_L), v.b = pointer<double>(b_L), v.ratio = pointer<double>(ratio_L);
  v.table = pointer<double>(table_LC), v.measured = pointer<double>(measured_LM);
  out.measure = measure;
  return out;
}

Tensors tensors(const std::vector<uintptr_t> &addresses, int storage) {
  Tensors out;
  for (uintptr_t address : addresses) out.at.push_back(pointer<const void>(address));
  out.storage = static_cast<Storage>(storage);
  return out;
}

Job job(int direction, double gradient_factor, double l2, int update, double momentum, double keep, int low_precision,
        double eps, double floor) {
  Job out;
  if (direction < 0 || direction >= kDirections) throw nb::value_error("no such direction");
  out.direction = static_cast<DirectionId>(direction), out.gradient_factor = gradient_factor, out.l2 = l2;
  out.update = static_cast<UpdateId>(update), out.momentum = momentum, out.keep = keep;
  out.low_precision = static_cast<LowPrecision>(low_precision), out.eps = eps, out.floor = floor;
  return out;
}

Rule rule(int id, double min_rms, double coefficient, double eps, int norm, int clip, double lower, double upper,
          bool always_adapt, bool has_zero_ratio, double zero_ratio, double parallel) {
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
                    "Tensors that a step rests on; see layerpace.backends.protocol.")
      .def(nb::init<nb::list, nb::list, nb::list, std::vector<std::string>>(), "params"_a, "grads"_a, "states"_a,
           "names"_a)
      .def("check", &Watch::check, "threads"_a = 1)
      .def("release", &Watch::release)
      .def("grads", &Watch::grads)
      .def("count", &Watch::count);
  using Spans = std::vector<std::pair<uintptr_t, uintptr_t>>;
  m.def("keep_apart", [](const std::vector<Watch *> &watches, const Spans &written, const Spans &read) {
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
      const std::vector<int> &columns, uint64_t seed, int threads, bool lr_outside, uintptr_t t_L, uintptr_t lr_L,
      uintptr_t weight_decay_L, uintptr_t ok_L, uintptr_t undecayed_L, uintptr_t excluded_L, uintptr_t c_L,
      uintptr_t b_L, uintptr_t ratio_L, uintptr_t table_LC, bool measure, uintptr_t measured_LM) {
    new (self) Request(request(options, t, columns, seed, threads, lr_outside, t_L, lr_L, weight_decay_L, ok_L,
                               undecayed_L, excluded_L, c_L, b_L, ratio_L, table_LC, measure, measured_LM));
  }, nb::kw_only(), "options"_a = std::vector<double>(), "t"_a = 0.0, "columns"_a = std::vector<int>(), "seed"_a = 0,
      "threads"_a = 1, "lr_outside"_a = false, "t_L"_a = 0, "lr_L"_a = 0, "weight_decay_L"_a = 0, "ok_L"_a = 0,
      "undecayed_L"_a = 0, "excluded_L"_a = 0, "c_L"_a = 0, "b_L"_a = 0, "ratio_L"_a = 0, "table_LC"_a = 0,
      "measure"_a = false, "measured_LM"_a = 0);

  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Bucket>(m, "Bucket", nb::type_slots(bucket_slots))
      .def(nb::init<nb::object, std::vector<std::string>, const std::string &, const std::string &,
                    const std::vector<std::vector<int64_t>> &>(),
           "watch"_a, "states"_a, "direction_memory"_a, "rule_memory"_a, "sizes"_a)
      .def_rw("job", &Bucket::job)
      .def_rw("rule", &Bucket::rule)
      .def("gradient_sums", &Bucket::gradient_sums, "request"_a, Release())
      .def("accumulate", &Bucket::accumulate, "request"_a, Release())
      .def("apply", &Bucket::apply, "request"_a, Release())
      .def("step", &Bucket::step, "request"_a, Release());

  m.def("sum_moves", [](const std::vector<uintptr_t> &old, int old_storage, const std::vector<uintptr_t> &now, int storage,
                        const std::vector<int64_t> &entries, int threads, uintptr_t out) {
    sum_moves(tensors(old, old_storage), tensors(now, storage), entries, threads, pointer<double>(out));
  }, Release());
  m.def("copy_tensors", [](const std::vector<uintptr_t> &from, const std::vector<uintptr_t> &to,
                           const std::vector<int64_t> &sizes, int threads) {
    std::vector<const void *> sources;
    std::vector<void *> targets;
    for (uintptr_t address : from) sources.push_back(pointer<const void>(address));
    for (uintptr_t address : to) targets.push_back(pointer<void>(address));
    copy_tensors(sources, targets, sizes, threads);
  }, Release());
  m.def("sum_squares", [](const std::vector<uintptr_t> &x, int storage, const std::vector<int64_t> &entries, int threads,
                          uintptr_t out) {
    sum_squares(tensors(x, storage), entries, threads, pointer<double>(out));
  }, Release());

#ifdef LP_HAS_NUMBERS
  m.def("format_numbers", [](uintptr_t x, size_t n) { return format_numbers(pointer<const double>(x), n); });
#endif

  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("use_instruction_set", &use_instruction_set, "name"_a);
  m.def("bandwidth", [](int64_t n, int threads, int repetitions) {
    Bandwidth found = measure_bandwidth(n, threads, repetitions);
    return std::pair(found.read, found.update);
  }, "n"_a, "threads"_a, "repetitions"_a, Release());
}
