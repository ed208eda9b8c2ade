#include "watch.hpp"

#include <nanobind/stl/string.h>

#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#define LP_HAS_DLFCN
#endif

#include <algorithm>
#include <exception>
#include <stdexcept>

#include "threads.hpp"

namespace layerpace {

namespace {

// torch/csrc/inductor/aoti_torch/c/shim.h, as far as it is used here; each function returns 0 for success.
struct Shim {
  int32_t (*data)(void *, void **) = nullptr;
  int32_t (*dtype)(void *, int32_t *) = nullptr;
  int32_t (*dim)(void *, int64_t *) = nullptr;
  int32_t (*sizes)(void *, int64_t **) = nullptr;
  int32_t (*strides)(void *, int64_t **) = nullptr;
  int32_t (*release)(void *) = nullptr;
  nb::object open;  // list of tensors -> list of capsules of handles; null where torch has no such function

  Shim() {
#ifdef LP_HAS_DLFCN
    void *library = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY);
    if (!library) return;
    auto find = [library](const char *name, auto &function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    if (!find("aoti_torch_get_data_ptr", data) || !find("aoti_torch_get_dtype", dtype) ||
        !find("aoti_torch_get_dim", dim) || !find("aoti_torch_get_sizes", sizes) || !find("aoti_torch_get_strides", strides) ||
        !find("aoti_torch_delete_tensor_object", release)) {
      return;
    }
    nb::object c = nb::module_::import_("torch").attr("_C");
    if (!nb::hasattr(c, "_aoti")) return;
    nb::object aoti = c.attr("_aoti");
    const char *name = "unsafe_alloc_void_ptrs_from_tensors";
    if (nb::hasattr(aoti, name)) open = aoti.attr(name);
#endif
  }
};

const Shim &shim() {
  static const Shim *instance = new Shim();
  return *instance;
}

std::vector<Handle> open_handles(const std::vector<nb::object> &tensors) {
  std::vector<Handle> out;
  if (tensors.empty() || !uses_exchange_api() || !shim().open.is_valid()) return out;
  nb::list list;
  for (const auto &tensor : tensors) list.append(tensor);
  nb::object capsules = shim().open(list);
  out.reserve(tensors.size());
  for (nb::handle capsule : capsules) {
    void *tensor = PyCapsule_GetPointer(capsule.ptr(), PyCapsule_GetName(capsule.ptr()));
    if (!tensor) throw nb::python_error();
    out.emplace_back(tensor);
  }
  return out;
}

}  // namespace

// A word of a live object, which is at least that long: an address, if the layout is the one that is guessed.
static const void *word(const void *object, int index) { return static_cast<const void *const *>(object)[index]; }

void Hints::bytes(const void *from, uintptr_t size) {
  constexpr uintptr_t line = 64;
  const auto begin = reinterpret_cast<uintptr_t>(from);
  for (uintptr_t at = begin / line * line; at < begin + size; at += line) lines_.push_back(reinterpret_cast<const char *>(at));
}

void Hints::object(const void *python_object) {
  bytes(python_object, 32);
  tensor(word(python_object, 2));
}

void Hints::tensor(const void *implementation) {
  if (!implementation) return;
  bytes(implementation, 176);
  bytes(word(implementation, 2), 64);  // storage
  bytes(word(implementation, 3), 32);  // what autograd knows of it, the gradient among that
}

void Hints::dict(const void *python_dict) {
  bytes(python_dict, 48);
  bytes(word(python_dict, 4), 192);  // its keys and values
}

void Hints::prefetch(size_t param) const {
  if (param + 1 >= ends_.size()) return;
  for (size_t i = ends_[param]; i < ends_[param + 1]; ++i) __builtin_prefetch(lines_[i]);
}

Handle::Handle(void *tensor) : tensor_(tensor) {
  if (shim().dtype(tensor_, &dtype_)) dtype_ = -1;
}

Handle::~Handle() {
  if (tensor_) shim().release(tensor_);
}

bool Handle::is(const Description &known) const {
  const Shim &torch = shim();
  void *data;
  int32_t dtype;
  int64_t dim, *sizes, *strides;
  if (torch.data(tensor_, &data) || torch.dtype(tensor_, &dtype) || torch.dim(tensor_, &dim)) return false;
  if (data != known.data || dtype != dtype_) return false;
  if (dim != static_cast<int64_t>(known.shape.size())) return false;
  if (torch.sizes(tensor_, &sizes) || torch.strides(tensor_, &strides)) return false;
  return std::equal(sizes, sizes + dim, known.shape.begin()) && std::equal(strides, strides + dim, known.strides.begin());
}

Watch::Watch(nb::list params, nb::list grads, nb::list states, std::vector<std::string> names)
    : names_(std::move(names)) {
  size_t n = nb::len(params);
  if (nb::len(grads) != n || nb::len(states) != n) throw std::invalid_argument("lists of different lengths");
  for (const auto &name : names_) keys_.push_back(nb::steal(PyUnicode_InternFromString(name.c_str())));
  Describer describe;
  dlpack::Tensor tensor;
  for (size_t i = 0; i < n; ++i) {
    nb::object param(params[i]), grad(grads[i]), state(states[i]);
    if (!describe(param.ptr(), tensor) || lazily_transformed(param.ptr(), tensor.dtype)) {
      throw std::invalid_argument("a parameter is no plain dense tensor");
    }
    param_.push_back(keep(tensor));
    if (!describe(grad.ptr(), tensor) || lazily_transformed(grad.ptr(), tensor.dtype)) {
      throw std::invalid_argument("a gradient is no plain dense tensor");
    }
    grad_.push_back(keep(tensor));
    if (!PyDict_CheckExact(state.ptr())) throw std::invalid_argument("a state is no dict");
    for (const auto &key : keys_) {
      PyObject *found = PyDict_GetItemWithError(state.ptr(), key.ptr());
      if (!found && PyErr_Occurred()) throw nb::python_error();
      if (!found || !describe(found, tensor) || lazily_transformed(found, tensor.dtype)) {
        throw std::invalid_argument("a state tensor is absent or not plain");
      }
      state_.push_back(keep(tensor));
      state_tensors_.push_back(nb::borrow(found));
    }
    std::vector<PyObject *> values;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(state.ptr(), &position, &key, &value)) {
      const bool watched = std::any_of(state_tensors_.end() - static_cast<std::ptrdiff_t>(keys_.size()), state_tensors_.end(),
                                       [value](const nb::object &x) { return x.ptr() == value; });
      values.push_back(watched ? value : nullptr);
    }
    values_.push_back(std::move(values));
    params_.push_back(std::move(param));
    grads_.push_back(std::move(grad));
    states_.push_back(std::move(state));
  }
  good_ = true;
  handles_ = open_handles(state_tensors_);
  if (handles_.empty()) return;
  // The guess of where an object has its tensor is only used if it is right for those that are known.
  if (word(state_tensors_[0].ptr(), 2) != word(handles_[0].where(), 0)) return;
  objects_.start(n), implementations_.start(n);
  for (size_t i = 0; i < n; ++i) {
    objects_.object(params_[i].ptr());
    objects_.object(grads_[i].ptr());
    objects_.dict(states_[i].ptr());
    objects_.end_of_param();
    for (size_t k = 0; k < keys_.size(); ++k) {
      implementations_.tensor(word(handles_[i * keys_.size() + k].where(), 0));
    }
    implementations_.end_of_param();
  }
}

Watch::Use::Use(const Watch &watch) : watch_(watch) {
  if (watch_.used_.exchange(true)) throw std::runtime_error("a step of these tensors is running");
  if (watch_.good_ && watch_.grads_.size() == watch_.size()) return;
  watch_.used_.store(false);
  throw std::runtime_error("the tensors of a step must be looked at before it");
}

bool Watch::check(int threads) {
  if (used_.load()) throw std::runtime_error("a step of these tensors is running");
  if (params_.size() != size()) return false;  // cleared
  good_ = false;
  // The interpreter's objects need the calling thread; torch's do not.
  bool objects = false, states = false;
  std::exception_ptr error;
  run_both(
      threads,
      [&] {
        try {
          objects = check_objects();
        } catch (...) {
          error = std::current_exception();
        }
      },
      [&] { states = check_states(); });
  if (error) std::rethrow_exception(error);
  return good_ = objects && states;
}

bool Watch::check_objects() {
  Describer describe;
  dlpack::Tensor tensor;
  auto unchanged = [&](PyObject *object, const Description &known) {
    return describe(object, tensor) && tensor.data == known.data && known.same_kind(tensor);
  };
  grads_.resize(params_.size());
  constexpr size_t ahead = 6;
  for (size_t i = 0; i < params_.size(); ++i) {
    objects_.prefetch(i + ahead);
    PyObject *param = params_[i].ptr();
    if (!unchanged(param, param_[i])) return false;
    nb::object grad = gradient_of(param);
    if (grad.is_none() || !describe(grad.ptr(), tensor) || !grad_[i].same_kind(tensor)) return false;
    // A real tensor with a lazy sign is the imaginary part of a conjugate, whose strides are those of a dense tensor
    // only if it has one entry. Other gradients need not be asked.
    if ((tensor.dtype.code == dlpack::kComplex || grad_[i].numel() == 1) &&
        lazily_transformed(grad.ptr(), tensor.dtype)) {
      return false;
    }
    if (grad_[i].data != tensor.data) {
      grad_[i].data = tensor.data;
      if (written_ && written_->touches(grad_[i].span())) return false;
    }
    grads_[i] = std::move(grad);

    const std::vector<PyObject *> &known = values_[i];
    PyObject *key, *value;
    Py_ssize_t position = 0;
    size_t entry = 0;
    for (; PyDict_Next(states_[i].ptr(), &position, &key, &value); ++entry) {
      if (entry >= known.size() || (known[entry] && known[entry] != value)) return false;
    }
    if (entry != known.size()) return false;
  }
  if (handles_.empty()) {
    for (size_t k = 0; k < state_.size(); ++k) {
      if (!unchanged(state_tensors_[k].ptr(), state_[k])) return false;
    }
  }
  return true;
}

bool Watch::keep_apart(const std::vector<Watch *> &watches, std::vector<Span> written, std::vector<Span> read) {
  auto note = [](std::vector<Span> &spans, const Description &tensor) {
    const Span span = tensor.span();
    if (span.begin < span.end) spans.push_back(span);
  };
  for (const Watch *watch : watches) {
    for (const auto &param : watch->param_) note(written, param);
    for (const auto &tensor : watch->state_) note(written, tensor);
    for (const auto &grad : watch->grad_) note(read, grad);
  }
  auto all = std::make_shared<Written>();
  if (!all->set(std::move(written))) return false;
  for (const Span &span : read) {
    if (all->touches(span)) return false;
  }
  for (Watch *watch : watches) watch->written_ = all;
  return true;
}

bool Watch::check_states() const {
  const size_t each = keys_.size();
  constexpr size_t ahead = 6;
  for (size_t k = 0; k < handles_.size(); ++k) {
    if (k % each == 0) implementations_.prefetch(k / each + ahead);
    if (!handles_[k].is(state_[k])) return false;
  }
  return true;
}

// Cuts a cycle of references; what is left cannot be used.
void Watch::clear() {
  good_ = false;
  params_.clear(), grads_.clear(), states_.clear(), state_tensors_.clear(), handles_.clear(), values_.clear();
}

void Watch::release() {
  if (used_.load()) throw std::runtime_error("a step of these tensors is running");
  good_ = false;
  grads_.clear();
}

nb::list Watch::grads() const {
  nb::list out;
  for (const auto &grad : grads_) out.append(grad);
  return out;
}

int Watch::state_index(const std::string &name) const {
  for (size_t k = 0; k < names_.size(); ++k) {
    if (names_[k] == name) return static_cast<int>(k);
  }
  return -1;
}

double Watch::count() {
  const Use use(*this);
  int at = state_index("step");
  if (at < 0 || params_.empty()) return -1.0;
  auto value = [&](size_t i) -> float & { return *static_cast<float *>(state(i, at).data); };
  for (size_t i = 0; i < size(); ++i) {
    const Description &step = state(i, at);
    bool scalar = step.has_memory() && step.dtype.code == dlpack::kFloat && step.dtype.bits == 32 &&
                  step.numel() == 1;
    if (!scalar || value(i) != value(0)) return -1.0;
  }
  float next = value(0) + 1.0f;
  for (size_t i = 0; i < size(); ++i) value(i) = next;
  return next;
}

}  // namespace layerpace
