// What a step rests on: the tensors of a bucket, described once and compared again before every later step.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dlpack.hpp"

namespace layerpace {

namespace nb = nanobind;

// What is known of a tensor: enough to read and write its memory, and to notice that it has changed.
struct Description {
  void *data = nullptr;
  dlpack::Device device{};
  dlpack::DataType dtype{};
  std::vector<int64_t> shape, strides;

  int64_t numel() const;
  bool same_kind(const dlpack::Tensor &other) const;  // all but the address
};

// A look at a tensor through the C interface that torch keeps stable for compiled models: a tenth of the time of the
// other ways. Holding one keeps the tensor alive, as state is anyway; parameters must stay free to be swapped.
class Handle {
 public:
  explicit Handle(void *tensor);
  Handle(Handle &&other) noexcept : tensor_(other.tensor_), dtype_(other.dtype_) { other.tensor_ = nullptr; }
  Handle(const Handle &) = delete;
  Handle &operator=(const Handle &) = delete;
  ~Handle();

  bool is(const Description &known) const;  // whether address, dtype, shape and strides are those

 private:
  void *tensor_;
  int32_t dtype_ = -1;  // a number of torch's
};

// Parameters, their gradients and their state.
class Watch {
 public:
  Watch(nb::list params, nb::list grads, nb::list states, std::vector<std::string> names);
  Watch(const Watch &) = delete;
  Watch &operator=(const Watch &) = delete;

  bool check();
  void release();  // the references to gradients: a step is over, and their memory may go
  nb::list grads() const;
  double count();

  size_t size() const { return params_.size(); }
  size_t state_count() const { return names_.size(); }
  int state_index(const std::string &name) const;  // -1: not watched
  const Description &param(size_t i) const { return param_[i]; }
  const Description &grad(size_t i) const { return grad_[i]; }
  const Description &state(size_t i, int name) const { return state_[i * names_.size() + name]; }

 private:
  std::vector<nb::object> params_, grads_, states_, state_tensors_;
  std::vector<std::string> names_;
  std::vector<nb::object> keys_;
  std::vector<Description> param_, grad_, state_;
  std::vector<Handle> handles_;  // of the state tensors; empty where torch has no such interface
};

void use_exchange_api(bool on);  // off: describe tensors by their Python methods, as for torch before 2.10

}  // namespace layerpace
