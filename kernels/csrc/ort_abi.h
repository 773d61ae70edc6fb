// The part of ONNX Runtime's C ABI that a custom-op library needs, written by hand: its wheel ships no headers.
//
// `OrtApi` is a table of function pointers that only ever grows, so an index is the same in every release that has
// it. `OrtCustomOp` is a struct we fill in and hand over; its layout is fixed by the `version` we write into it.
// Knows nothing of our ops.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge::ort {

// The version of the API we ask for; ONNX Runtime 1.18 is the first that has every slot below.
constexpr uint32_t kApiVersion = 18;

struct ApiBase {
  const struct Api* (*get_api)(uint32_t version);
  const char* (*get_version_string)();
};

// Opaque objects of ONNX Runtime.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorTypeAndShapeInfo;
struct ShapeInferContext;

enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };

// The table.
struct Api {
  void* slots[412];
};

// Each used function: its index in the table and its type.
template <size_t kIndex, class Signature>
struct Slot;
template <size_t kIndex, class Result, class... Args>
struct Slot<kIndex, Result(Args...)> {
  static Result call(const Api* api, Args... args) {
    return reinterpret_cast<Result (*)(Args...)>(api->slots[kIndex])(args...);
  }
};

using CreateStatus = Slot<0, Status*(ErrorCode, const char*)>;
using GetErrorMessage = Slot<2, const char*(const Status*)>;
using CreateCustomOpDomain = Slot<26, Status*(const char*, CustomOpDomain**)>;
using CustomOpDomainAdd = Slot<27, Status*(CustomOpDomain*, const struct CustomOp*)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void**)>;
using GetTensorElementType = Slot<60, Status*(const TensorTypeAndShapeInfo*, ElementType*)>;
using GetDimensionsCount = Slot<61, Status*(const TensorTypeAndShapeInfo*, size_t*)>;
using GetDimensions = Slot<62, Status*(const TensorTypeAndShapeInfo*, int64_t*, size_t)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorTypeAndShapeInfo**)>;
using KernelInfoGetAttributeFloat = Slot<85, Status*(const KernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt64 = Slot<86, Status*(const KernelInfo*, const char*, int64_t*)>;
using KernelInfoGetAttributeString = Slot<87, Status*(const KernelInfo*, const char*, char*, size_t*)>;
using KernelContextGetInputCount = Slot<88, Status*(const KernelContext*, size_t*)>;
using KernelContextGetInput = Slot<90, Status*(const KernelContext*, size_t, const Value**)>;
using KernelContextGetOutput = Slot<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(TensorTypeAndShapeInfo*)>;
using HasSessionConfigEntry = Slot<237, Status*(const SessionOptions*, const char*, int*)>;
using GetSessionConfigEntry = Slot<238, Status*(const SessionOptions*, const char*, char*, size_t*)>;
using KernelInfoGetNodeName = Slot<244, Status*(const KernelInfo*, char*, size_t*)>;
using KernelContextParallelFor =
    Slot<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t total, size_t num_batch, void*)>;

// A custom op as ONNX Runtime sees it. Unused members stay null.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);  // superseded by create_kernel_v2
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider_type)(const CustomOp*);
  ElementType (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_input_type_count)(const CustomOp*);
  ElementType (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_output_type_count)(const CustomOp*);
  void (*kernel_compute)(void*, KernelContext*);  // superseded by kernel_compute_v2
  void (*kernel_destroy)(void*);
  Characteristic (*get_input_characteristic)(const CustomOp*, size_t);
  Characteristic (*get_output_characteristic)(const CustomOp*, size_t);
  int (*get_input_memory_type)(const CustomOp*, size_t);
  int (*get_variadic_input_min_arity)(const CustomOp*);
  int (*get_variadic_input_homogeneity)(const CustomOp*);
  int (*get_variadic_output_min_arity)(const CustomOp*);
  int (*get_variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*kernel_compute_v2)(void*, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
  size_t (*get_may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int* inputs, int* outputs);
  size_t (*get_alias_map)(int** inputs, int** outputs);
  void (*release_alias_map)(int* inputs, int* outputs);
};
static_assert(offsetof(CustomOp, kernel_compute) == 8 * sizeof(void*), "OrtCustomOp layout");
static_assert(offsetof(CustomOp, create_kernel_v2) == 17 * sizeof(void*), "OrtCustomOp layout");
static_assert(offsetof(CustomOp, release_alias_map) == 25 * sizeof(void*), "OrtCustomOp layout");

}  // namespace edge::ort
