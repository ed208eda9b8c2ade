// What a step rests on: the tensors of a bucket, described once and compared again before every later step.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "describe.hpp"
#include "written.hpp"

namespace layerpace {

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
  const void *where() const { return tensor_; }

 private:
  void *tensor_;
  int32_t dtype_ = -1;  // a number of torch's
};

// Where the objects of a parameter lie in memory, as far as can be guessed. These addresses are only prefetched, never
// read: thousands of small objects are otherwise a cache miss each, and that is most of the time of a check.
class Hints {
 public:
  void start(size_t params) { lines_.reserve(params * 32), ends_.assign(1, 0); }
  void object(const void *python_object);  // a tensor's
  void tensor(const void *implementation);
  void dict(const void *python_dict);
  void end_of_param() { ends_.push_back(lines_.size()); }
  void prefetch(size_t param) const;

 private:
  void bytes(const void *from, uintptr_t size);
  std::vector<const char *> lines_;
  std::vector<size_t> ends_;
};

// Parameters, their gradients and their state.
//
// Addresses are good from the time when the tensors were looked at, by the constructor or `check`, until `release`: the
// gradients are held for that long. Whoever calls runs nothing in between that gives tensors other memory.
class Watch {
 public:
  Watch(nb::list params, nb::list grads, nb::list states, std::vector<std::string> names);
  Watch(const Watch &) = delete;
  Watch &operator=(const Watch &) = delete;

  bool check(int threads);
  void release();  // the references to gradients: a step is over, and their memory may go
  nb::list grads() const;
  double count();

  template <class Visit>
  int visit(Visit visit) const {  // every object that is held, for the garbage collector
    for (const auto *objects : {&params_, &grads_, &states_, &state_tensors_}) {
      for (const auto &object : *objects) {
        if (int stop = visit(object.ptr())) return stop;
      }
    }
    return 0;
  }
  void clear();

  // Of several buckets: whether nothing of them lies in memory that a step writes; if so, `check` sees to it that no
  // gradient comes to lie there later. `written` and `read` are what else the step writes and reads.
  static bool keep_apart(const std::vector<Watch *> &watches, std::vector<Span> written, std::vector<Span> read);

  // For the time that kernels use the addresses: nothing else may look or let go. Throws if they are not good.
  class Use {
   public:
    explicit Use(const Watch &watch);
    ~Use() { watch_.used_.store(false); }
    Use(const Use &) = delete;
    Use &operator=(const Use &) = delete;

   private:
    const Watch &watch_;
  };

  size_t size() const { return param_.size(); }
  size_t state_count() const { return names_.size(); }
  int state_index(const std::string &name) const;  // -1: not watched
  const Description &param(size_t i) const { return param_[i]; }
  const Description &grad(size_t i) const { return grad_[i]; }
  const Description &state(size_t i, int name) const { return state_[i * names_.size() + name]; }

 private:
  bool check_objects();
  bool check_states() const;

  bool good_ = false;
  mutable std::atomic<bool> used_{false};
  std::vector<nb::object> params_, grads_, states_, state_tensors_;
  std::vector<std::vector<PyObject *>> values_;  // of each state dict, in its order; null for one that is not watched
  std::vector<std::string> names_;
  std::vector<nb::object> keys_;
  std::vector<Description> param_, grad_, state_;
  std::shared_ptr<const Written> written_;  // of all buckets of the step
  Hints objects_, implementations_;  // the interpreter's, and torch's
  std::vector<Handle> handles_;  // of the state tensors; empty where torch has no such interface
};

}  // namespace layerpace
