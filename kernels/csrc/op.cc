#include "op.h"

#include <array>
#include <map>

#include "isa.h"
#include "ops.h"

namespace edge {
namespace {

void check(const ort::Api* api, ort::Status* status) {
  if (status == nullptr) return;
  const std::string message = ort::GetErrorMessage::call(api, status);
  ort::ReleaseStatus::call(api, status);
  throw Error(message);
}

// Reads a string whose length ONNX Runtime only tells when asked with no room for it.
template <class Read>
std::string read_string(const ort::Api* api, const Read& read) {
  size_t size = 0;
  ort::Status* status = read(nullptr, &size);
  if (status != nullptr) ort::ReleaseStatus::call(api, status);
  std::string value(size, '\0');
  if (size > 0) check(api, read(value.data(), &size));
  while (!value.empty() && value.back() == '\0') value.pop_back();
  return value;
}

std::string shape_text(const int64_t* shape, size_t rank) {
  std::string out = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i > 0) out += ", ";
    out += shape[i] == kAny ? std::string("any") : std::to_string(shape[i]);
  }
  return out + "]";
}

// The object behind a node: the kernel and what is needed to name it in an error.
struct Node {
  const ort::Api* api;
  const OpDefinition* op;
  std::string name;
  std::unique_ptr<Kernel> kernel;
};

ort::Status* to_status(const ort::Api* api, const OpDefinition& op, const std::string& node, const char* message) {
  const std::string full = text("edge.", op.name, node.empty() ? "" : " '" + node + "'", ": ", message);
  return ort::CreateStatus::call(api, ort::kInvalidArgument, full.c_str());
}

// An op bound to an instruction set, in the form ONNX Runtime calls. Lives as long as the process.
struct BoundOp : ort::CustomOp {
  const OpDefinition* op;
  const KernelTable* kernels;

  BoundOp(const OpDefinition& definition, const KernelTable& table);
};

const OpDefinition& definition(const ort::CustomOp* self) { return *static_cast<const BoundOp*>(self)->op; }

ort::Characteristic characteristic(const std::vector<Port>& ports, size_t index) {
  return ports[index].optional ? ort::kOptional : ort::kRequired;
}

ort::Status* make_node(const ort::CustomOp* self, const ort::Api* api, const ort::KernelInfo* info, void** out) {
  const auto* bound = static_cast<const BoundOp*>(self);
  std::string name;
  try {
    const Attributes attributes(api, info);
    name = attributes.node_name();
    *out = new Node{api, bound->op, name, bound->op->create(attributes, *bound->kernels)};
    return nullptr;
  } catch (const std::exception& error) {
    return to_status(api, *bound->op, name, error.what());
  }
}

ort::Status* run_node(void* data, ort::KernelContext* context) {
  const auto* node = static_cast<const Node*>(data);
  try {
    node->kernel->compute(Context(node->api, context, node->op));
    return nullptr;
  } catch (const std::exception& error) {
    return to_status(node->api, *node->op, node->name, error.what());
  }
}

BoundOp::BoundOp(const OpDefinition& definition_, const KernelTable& table) : ort::CustomOp{} {
  op = &definition_;
  kernels = &table;
  version = ort::kApiVersion;
  get_name = [](const ort::CustomOp* self) { return definition(self).name; };
  get_execution_provider_type = [](const ort::CustomOp*) -> const char* { return nullptr; };  // CPU
  get_input_type = [](const ort::CustomOp* self, size_t i) { return definition(self).inputs[i].type; };
  get_input_type_count = [](const ort::CustomOp* self) { return definition(self).inputs.size(); };
  get_output_type = [](const ort::CustomOp* self, size_t i) { return definition(self).outputs[i].type; };
  get_output_type_count = [](const ort::CustomOp* self) { return definition(self).outputs.size(); };
  get_input_characteristic = [](const ort::CustomOp* self, size_t i) {
    return characteristic(definition(self).inputs, i);
  };
  get_output_characteristic = [](const ort::CustomOp* self, size_t i) {
    return characteristic(definition(self).outputs, i);
  };
  get_input_memory_type = [](const ort::CustomOp*, size_t) { return 0; };
  get_variadic_input_min_arity = [](const ort::CustomOp*) { return 1; };
  get_variadic_input_homogeneity = [](const ort::CustomOp*) { return 1; };
  get_variadic_output_min_arity = [](const ort::CustomOp*) { return 1; };
  get_variadic_output_homogeneity = [](const ort::CustomOp*) { return 1; };
  get_start_version = [](const ort::CustomOp*) { return 1; };
  get_end_version = [](const ort::CustomOp*) { return 1; };
  create_kernel_v2 = make_node;
  kernel_compute_v2 = run_node;
  kernel_destroy = [](void* data) { delete static_cast<Node*>(data); };
}

// All ops of one instruction set and the domain that lists them. Made on first use and kept, because loaded graphs
// hold pointers to both.
struct BoundDomain {
  std::vector<BoundOp> ops;
  ort::CustomOpDomain* domain = nullptr;

  BoundDomain(const ort::Api* api, const KernelTable& kernels) {
    for (const OpDefinition* op : all_ops()) ops.emplace_back(*op, kernels);
    check(api, ort::CreateCustomOpDomain::call(api, "edge", &domain));
    for (const BoundOp& op : ops) check(api, ort::CustomOpDomainAdd::call(api, domain, &op));
  }
};

}  // namespace

const char* type_name(ort::ElementType type) {
  switch (type) {
    case ort::kFloat:
      return "float32";
    case ort::kUint8:
      return "uint8";
    case ort::kInt8:
      return "int8";
    case ort::kInt32:
      return "int32";
    case ort::kInt64:
      return "int64";
    case ort::kFloat16:
      return "float16";
    default:
      return "another type";
  }
}

std::string Tensor::describe() const { return text(type_name(type), " ", shape_text(shape, rank)); }

void Tensor::expect(ort::ElementType wanted_type, std::initializer_list<int64_t> wanted) const {
  bool fits = data != nullptr && type == wanted_type && rank == wanted.size();
  for (size_t i = 0; fits && i < rank; ++i) fits = wanted.begin()[i] == kAny || wanted.begin()[i] == shape[i];
  if (fits) return;
  throw Error(text("input '", name, "' is ", data == nullptr ? "absent" : describe(), ", wanted ",
                   type_name(wanted_type), " ", shape_text(wanted.begin(), wanted.size())));
}

int64_t Attributes::integer(const char* name) const {
  int64_t value = 0;
  check(api_, ort::KernelInfoGetAttributeInt64::call(api_, info_, name, &value));
  return value;
}

float Attributes::number(const char* name) const {
  float value = 0;
  check(api_, ort::KernelInfoGetAttributeFloat::call(api_, info_, name, &value));
  return value;
}

std::string Attributes::string(const char* name) const {
  return read_string(api_, [&](char* out, size_t* size) {
    return ort::KernelInfoGetAttributeString::call(api_, info_, name, out, size);
  });
}

std::string Attributes::node_name() const {
  return read_string(api_,
                     [&](char* out, size_t* size) { return ort::KernelInfoGetNodeName::call(api_, info_, out, size); });
}

Tensor Context::input(size_t index) const {
  Tensor tensor;
  tensor.name = op_->inputs[index].name;
  size_t count = 0;
  check(api_, ort::KernelContextGetInputCount::call(api_, context_, &count));
  if (index >= count) return tensor;
  const ort::Value* value = nullptr;
  check(api_, ort::KernelContextGetInput::call(api_, context_, index, &value));
  if (value == nullptr) return tensor;
  ort::TensorTypeAndShapeInfo* info = nullptr;
  check(api_, ort::GetTensorTypeAndShape::call(api_, value, &info));
  ort::GetTensorElementType::call(api_, info, &tensor.type);
  ort::GetDimensionsCount::call(api_, info, &tensor.rank);
  const bool representable = tensor.rank <= std::size(tensor.shape);
  if (representable) ort::GetDimensions::call(api_, info, tensor.shape, tensor.rank);
  ort::ReleaseTensorTypeAndShapeInfo::call(api_, info);
  if (!representable) throw Error(text("input '", tensor.name, "' has rank ", tensor.rank, ", wanted at most 8"));
  check(api_, ort::GetTensorMutableData::call(api_, const_cast<ort::Value*>(value), &tensor.data));
  // An empty tensor may have no memory; it is present all the same.
  static char empty;
  if (tensor.data == nullptr) tensor.data = &empty;
  return tensor;
}

float* Context::output(size_t index, std::initializer_list<int64_t> shape) const {
  ort::Value* value = nullptr;
  check(api_, ort::KernelContextGetOutput::call(api_, context_, index, shape.begin(), shape.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api_, ort::GetTensorMutableData::call(api_, value, &data));
  return static_cast<float*>(data);
}

void Context::run_parallel(size_t total, void (*fn)(void*, size_t), void* data) const {
  if (total == 1) return fn(data, 0);
  // num_batch 0: every index is a unit of work of its own, taken by whichever thread is free.
  if (total > 0) check(api_, ort::KernelContextParallelFor::call(api_, context_, fn, total, 0, data));
}

void register_ops(ort::SessionOptions* options, const ort::Api* api, const Isa& isa) {
  static std::mutex mutex;
  static std::map<const KernelTable*, std::unique_ptr<BoundDomain>> domains;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<BoundDomain>& bound = domains[isa.kernels];
  if (!bound) bound = std::make_unique<BoundDomain>(api, *isa.kernels);
  check(api, ort::AddCustomOpDomain::call(api, options, bound->domain));
}

}  // namespace edge
