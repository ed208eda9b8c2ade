#include "describe.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace layerpace {

namespace {

bool exchange_api_allowed = true;

// torch's types and methods, looked up once. Never freed: they live as long as the interpreter.
struct Torch {
  PyTypeObject *tensor, *parameter;
  const dlpack::ExchangeApi *api = nullptr;
  PyObject *grad, *is_neg, *is_conj, *data_ptr, *shape, *stride, *dtype, *device, *type, *index, *storage_offset;
  struct Kind {
    PyObject *dtype;
    dlpack::DataType type;
  };
  std::vector<Kind> kinds;

  Torch() {
    nb::module_ torch = nb::module_::import_("torch");
    tensor = reinterpret_cast<PyTypeObject *>(nb::object(torch.attr("Tensor")).release().ptr());
    parameter = reinterpret_cast<PyTypeObject *>(
        nb::object(torch.attr("nn").attr("Parameter")).release().ptr());
    if (nb::hasattr(torch.attr("Tensor"), "__dlpack_c_exchange_api__")) {
      nb::object capsule = torch.attr("Tensor").attr("__dlpack_c_exchange_api__");
      void *pointer = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
      if (!pointer) PyErr_Clear();
      auto *table = static_cast<const dlpack::ExchangeApi *>(pointer);
      while (table && table->header.version.major != 1) {
        table = reinterpret_cast<const dlpack::ExchangeApi *>(table->header.previous);
      }
      if (table && table->tensor_from_py_object_no_sync) api = table;
    }
    auto intern = [](const char *text) { return PyUnicode_InternFromString(text); };
    grad = intern("grad"), is_neg = intern("is_neg"), is_conj = intern("is_conj"), data_ptr = intern("data_ptr");
    shape = intern("shape"), stride = intern("stride"), dtype = intern("dtype"), device = intern("device");
    type = intern("type"), index = intern("index"), storage_offset = intern("storage_offset");
    auto kind = [&](const char *name, dlpack::TypeCode code, int bits) {
      kinds.push_back({nb::object(torch.attr(name)).release().ptr(), {code, static_cast<uint8_t>(bits), 1}});
    };
    kind("float32", dlpack::kFloat, 32), kind("float64", dlpack::kFloat, 64), kind("float16", dlpack::kFloat, 16);
    kind("bfloat16", dlpack::kBfloat, 16), kind("complex64", dlpack::kComplex, 64);
    kind("complex128", dlpack::kComplex, 128), kind("bool", dlpack::kBool, 8);
  }

  bool is_tensor(PyObject *object) const { return Py_TYPE(object) == tensor || Py_TYPE(object) == parameter; }
};

const Torch &torch() {
  static const Torch *instance = new Torch();
  return *instance;
}

bool flag(PyObject *tensor, PyObject *method) {
  nb::object result = nb::steal(PyObject_CallMethodNoArgs(tensor, method));
  if (!result.is_valid()) throw nb::python_error();
  return result.ptr() == Py_True;
}

// Complex numbers as pairs of real ones.
Description real_view(Description tensor) {
  if (tensor.dtype.code != dlpack::kComplex) return tensor;
  for (int64_t &stride : tensor.strides) stride *= 2;
  tensor.shape.push_back(2), tensor.strides.push_back(1);
  return tensor;
}

// Dimensions that have more than one entry, the outermost in memory first; false: there are gaps, or entries twice.
bool order_of(const Description &tensor, std::vector<size_t> &order) {
  order.clear();
  for (size_t k = 0; k < tensor.shape.size(); ++k) {
    if (tensor.shape[k] != 1) order.push_back(k);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return tensor.strides[a] > tensor.strides[b]; });
  int64_t expected = 1;
  for (size_t i = order.size(); i-- > 0; expected *= tensor.shape[order[i]]) {
    if (tensor.strides[order[i]] != expected) return false;
  }
  return true;
}

}  // namespace

// Whether the storage of a tensor has been freed, as sharding wrappers do: its address is its offset from null then.
static bool freed(PyObject *tensor, const dlpack::Tensor &found) {
  const auto address = reinterpret_cast<uintptr_t>(found.data);
  if (address >> 40 || found.device.type != dlpack::kCPU) return false;
  if (std::any_of(found.shape, found.shape + found.ndim, [](int64_t size) { return size == 0; })) return false;
  nb::object offset = nb::steal(PyObject_CallMethodNoArgs(tensor, torch().storage_offset));
  if (!offset.is_valid()) throw nb::python_error();
  return PyLong_AsUnsignedLongLong(offset.ptr()) * (found.dtype.bits / 8u) * found.dtype.lanes == address;
}

bool Describer::operator()(PyObject *object, dlpack::Tensor &out) { return look(object, out) && !freed(object, out); }

bool Describer::look(PyObject *object, dlpack::Tensor &out) {
  const Torch &t = torch();
  if (!t.is_tensor(object)) return false;
  if (t.api && exchange_api_allowed) {
    if (t.api->tensor_from_py_object_no_sync(object, &out) != 0) {
      PyErr_Clear();
      return false;
    }
    out.data = static_cast<char *>(out.data) + out.byte_offset;
    return true;
  }
  try {
    nb::handle tensor(object);
    nb::object dtype = tensor.attr(nb::handle(t.dtype));
    const Torch::Kind *found = nullptr;
    for (const auto &kind : t.kinds) {
      if (kind.dtype == dtype.ptr()) found = &kind;
    }
    if (!found) return false;
    nb::tuple shape(tensor.attr(nb::handle(t.shape)));
    nb::tuple strides(tensor.attr(nb::handle(t.stride))());
    room_.clear();
    for (nb::handle n : shape) room_.push_back(nb::cast<int64_t>(n));
    for (nb::handle n : strides) room_.push_back(nb::cast<int64_t>(n));
    nb::object device = tensor.attr(nb::handle(t.device));
    bool host = nb::cast<std::string>(device.attr(nb::handle(t.type))) == "cpu";
    nb::object index = device.attr(nb::handle(t.index));
    out.data = reinterpret_cast<void *>(nb::cast<uintptr_t>(tensor.attr(nb::handle(t.data_ptr))()));
    out.device = {host ? dlpack::kCPU : 0, index.is_none() ? 0 : nb::cast<int32_t>(index)};
    out.dtype = found->type;
    out.ndim = static_cast<int32_t>(shape.size());
    out.shape = room_.data();
    out.strides = room_.data() + shape.size();
    out.byte_offset = 0;
    return true;
  } catch (nb::python_error &) {  // sparse, meta, fake: no address
    return false;
  }
}

bool lazily_transformed(PyObject *tensor, const dlpack::DataType &dtype) {
  const Torch &t = torch();
  return flag(tensor, t.is_neg) || (dtype.code == dlpack::kComplex && flag(tensor, t.is_conj));
}

nb::object gradient_of(PyObject *tensor) {
  nb::object grad = nb::steal(PyObject_GetAttr(tensor, torch().grad));
  if (!grad.is_valid()) throw nb::python_error();
  return grad;
}

Description keep(const dlpack::Tensor &tensor) {
  Description out;
  out.data = tensor.data;
  out.device = tensor.device;
  out.dtype = tensor.dtype;
  out.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  out.strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  return out;
}

int64_t Description::numel() const {
  int64_t n = 1;
  bool fits = true;
  for (int64_t size : shape) {
    if (size == 0) return 0;
    fits = fits && size > 0 && !__builtin_mul_overflow(n, size, &n) && n < int64_t{1} << 58;
  }
  if (!fits) throw std::invalid_argument("a tensor of no possible size");
  return n;
}

Span Description::span() const {
  uintptr_t last = 0;
  for (size_t k = 0; k < shape.size(); ++k) {
    if (shape[k] == 0) return {0, 0};
    last += static_cast<uintptr_t>(shape[k] - 1) * static_cast<uintptr_t>(strides[k]);
  }
  const auto begin = reinterpret_cast<uintptr_t>(data);
  return {begin, begin + (last + 1) * dtype.bits / 8};
}

bool Description::contiguous() const {
  if (numel() == 0) return true;
  int64_t expected = 1;
  for (size_t k = shape.size(); k-- > 0; expected *= shape[k]) {
    if (shape[k] != 1 && strides[k] != expected) return false;
  }
  return true;
}

bool Description::same_kind(const dlpack::Tensor &other) const {
  if (other.device.type != device.type || other.device.id != device.id || other.dtype.code != dtype.code ||
      other.dtype.bits != dtype.bits || other.ndim != static_cast<int32_t>(shape.size())) {
    return false;
  }
  for (size_t k = 0; k < shape.size(); ++k) {
    if (other.shape[k] != shape[k] || other.strides[k] != strides[k]) return false;
  }
  return true;
}

bool same_layout(const Description &one, const Description &another, bool by_rows) {
  if (one.numel() == 0 || another.numel() == 0) return one.numel() == another.numel();
  if (one.contiguous() && another.contiguous()) return one.reals() == another.reals();
  const Description a = real_view(one), b = real_view(another);
  std::vector<size_t> order, other;
  if (a.shape != b.shape || !order_of(a, order) || !order_of(b, other) || order != other) return false;
  return !by_rows || order.empty() || order[0] == 0 || a.shape[0] == 1;
}

Storage storage_of(const dlpack::DataType &type, const char *what) {
  const bool complex = type.code == dlpack::kComplex;
  const int bits = complex ? type.bits / 2 : type.bits;
  if (type.lanes == 1) {
    if (type.code == dlpack::kBfloat && bits == 16) return Storage::bf16;
    if ((type.code == dlpack::kFloat || complex) && bits == 64) return Storage::f64;
    if ((type.code == dlpack::kFloat || complex) && bits == 32) return Storage::f32;
    if (type.code == dlpack::kFloat && bits == 16) return Storage::f16;
  }
  throw std::invalid_argument(std::string("no kernel for the dtype of ") + what);
}

Description on_host(nb::handle tensor, const char *what) {
  Describer describe;
  dlpack::Tensor found;
  if (describe(tensor.ptr(), found)) {
    Description out = keep(found);
    if (out.has_memory()) return out;
  }
  throw std::invalid_argument(std::string(what) + " is no plain tensor with memory on the CPU");
}

static void *vector_of(nb::handle tensor, int64_t count, const char *what, dlpack::TypeCode code, int bits) {
  if (!tensor.is_valid() || tensor.is_none()) return nullptr;
  const Description found = on_host(tensor, what);
  if (found.dtype.code != code || found.dtype.bits != bits || found.dtype.lanes != 1 || !found.contiguous() ||
      found.numel() != count) {
    throw std::invalid_argument(std::string(what) + " has another dtype, or not " + std::to_string(count) +
                                " numbers in a row");
  }
  // Of no numbers, it is there all the same.
  static double nothing = 0;
  return found.data ? found.data : &nothing;
}

double *numbers(nb::handle tensor, int64_t count, const char *what) {
  return static_cast<double *>(vector_of(tensor, count, what, dlpack::kFloat, 64));
}

const bool *flags(nb::handle tensor, int64_t count, const char *what) {
  return static_cast<const bool *>(vector_of(tensor, count, what, dlpack::kBool, 8));
}

bool uses_exchange_api() { return exchange_api_allowed; }

void use_exchange_api(bool on) { exchange_api_allowed = on; }

}  // namespace layerpace
