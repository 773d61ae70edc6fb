// What every op is written against: tensors, attributes, outputs and threads of ONNX Runtime, with checks that throw
// `Error`. Knows nothing of any particular op; an op is an `OpDefinition` plus a subclass of `Kernel`.
#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "error.h"
#include "kernel_table.h"
#include "ort_abi.h"

namespace edge {

// One input of a running kernel. `data` is null when an optional input is absent.
struct Tensor {
  const char* name = "";
  ort::ElementType type = ort::kUndefined;
  int64_t shape[8] = {};
  size_t rank = 0;
  void* data = nullptr;

  explicit operator bool() const { return data != nullptr; }
  int64_t dim(size_t axis) const { return shape[axis]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  std::string describe() const;  // "float32 [3, 64]"

  // Throws unless the type is `type` and the shape is `wanted`, where kAny fits every size.
  void expect(ort::ElementType type, std::initializer_list<int64_t> wanted) const;
};
constexpr int64_t kAny = -1;

const char* type_name(ort::ElementType type);

// The attributes of a node, at creation.
class Attributes {
 public:
  Attributes(const ort::Api* api, const ort::KernelInfo* info) : api_(api), info_(info) {}
  int64_t integer(const char* name) const;     // throws when missing
  float number(const char* name) const;        // throws when missing
  std::string string(const char* name) const;  // throws when missing
  std::string node_name() const;

 private:
  const ort::Api* api_;
  const ort::KernelInfo* info_;
};

// One run of one kernel.
class Context {
 public:
  Context(const ort::Api* api, ort::KernelContext* context, const struct OpDefinition* op)
      : api_(api), context_(context), op_(op) {}

  Tensor input(size_t index) const;
  // The output's memory; null when nobody uses an optional output.
  float* output(size_t index, std::initializer_list<int64_t> shape) const;

  // Calls fn(i) for i in [0, total) on ONNX Runtime's own threads, in no order. Rethrows what a call threw.
  template <class Fn>
  void parallel_for(size_t total, const Fn& fn) const;

 private:
  void run_parallel(size_t total, void (*fn)(void*, size_t), void* data) const;

  const ort::Api* api_;
  ort::KernelContext* context_;
  const OpDefinition* op_;
};

// A node of a loaded graph. One object serves concurrent runs, so `compute` is const.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(const Context& context) const = 0;
};

struct Port {
  const char* name;
  ort::ElementType type;  // kUndefined: checked by the kernel, because several are allowed
  bool optional = false;
};

struct OpDefinition {
  const char* name;
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::unique_ptr<Kernel> (*create)(const Attributes&, const KernelTable&);
};

// Adds all ops, running on `isa`, under the domain "edge", to what is loaded with `options`.
void register_ops(ort::SessionOptions* options, const ort::Api* api, const struct Isa& isa);

template <class Fn>
void Context::parallel_for(size_t total, const Fn& fn) const {
  struct Job {
    const Fn& fn;
    std::mutex mutex;
    std::exception_ptr error;
  } job{fn, {}, nullptr};
  run_parallel(
      total,
      [](void* data, size_t index) {
        auto* job = static_cast<Job*>(data);
        try {
          job->fn(index);
        } catch (...) {
          std::lock_guard<std::mutex> lock(job->mutex);
          job->error = std::current_exception();
        }
      },
      &job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace edge
