// Tensors from Python: what they are, and whether their memory is what kernels take it for.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "dlpack.hpp"
#include "job.hpp"
#include "written.hpp"

namespace layerpace {

namespace nb = nanobind;

// What is known of a tensor: enough to read and write its memory, and to notice that it has changed.
struct Description {
  void *data = nullptr;
  dlpack::Device device{};
  dlpack::DataType dtype{};
  std::vector<int64_t> shape, strides;

  int64_t numel() const;      // an error if there is no such number
  int64_t reals() const { return numel() * (dtype.code == dlpack::kComplex ? 2 : 1); }
  bool has_memory() const { return device.type == dlpack::kCPU && (data || numel() == 0); }
  Span span() const;  // from the first byte to behind the last; empty where there is no entry
  bool contiguous() const;
  bool same_kind(const dlpack::Tensor &other) const;  // all but the address
};

// Whether the entries of both lie in memory in one order, without gaps; by rows: the first dimension outermost.
bool same_layout(const Description &one, const Description &another, bool by_rows = false);

// One tensor through torch's exchange interface, or through its Python methods; views into `room` then.
class Describer {
 public:
  // False: no plain tensor with an address.
  bool operator()(PyObject *object, dlpack::Tensor &out);

 private:
  bool look(PyObject *object, dlpack::Tensor &out);
  std::vector<int64_t> room_;
};

Description keep(const dlpack::Tensor &tensor);
nb::object gradient_of(PyObject *tensor);

// A gradient whose memory does not hold its values: its sign or its imaginary part is flipped when it is read.
bool lazily_transformed(PyObject *tensor, const dlpack::DataType &dtype);

Storage storage_of(const dlpack::DataType &type, const char *what);  // an error if there is none

// A plain tensor on the CPU with memory of its own; an error that names `what` if it is another.
Description on_host(nb::handle tensor, const char *what);

// The numbers of a contiguous tensor of so many; null for None.
double *numbers(nb::handle tensor, int64_t count, const char *what);
const bool *flags(nb::handle tensor, int64_t count, const char *what);

bool uses_exchange_api();
void use_exchange_api(bool on);  // off: describe tensors by their Python methods, as for torch before 2.10

}  // namespace layerpace
