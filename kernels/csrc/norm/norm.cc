// edge.RMSNorm and edge.LayerNorm, each with an optional residual added first. docs/kernels.md has the schemas,
// edge_kernels/reference/norm.py the definitions.
#include "norm.h"

#include <algorithm>

#include "op.h"
#include "ops.h"

namespace edge {
namespace {

class Norm : public Kernel {
 public:
  // `residual_index` is the residual's place among the inputs; LayerNorm has a bias before it.
  Norm(const Attributes& attributes, void (*kernel)(const NormRow&), size_t residual_index)
      : kernel_(kernel), residual_index_(residual_index), epsilon_(attributes.number("epsilon")) {}

  void compute(const Context& context) const override {
    const Tensor x = context.input(0), weight = context.input(1), residual = context.input(residual_index_);
    x.expect(ort::kFloat, {kAny, kAny});
    const int64_t rows = x.dim(0), width = x.dim(1);
    weight.expect(ort::kFloat, {width});
    NormRow first = {};
    if (residual_index_ == 3) {
      const Tensor bias = context.input(2);
      bias.expect(ort::kFloat, {width});
      first.bias = bias.as<float>();
    }
    if (residual) residual.expect(ort::kFloat, {rows, width});
    first.x = x.as<float>();
    first.residual = residual.as<float>();
    first.weight = weight.as<float>();
    first.y = context.output(0, {rows, width});
    first.sum = context.output(1, {rows, width});
    if (first.sum != nullptr && !residual) throw Error("output 'sum' is used, but there is no input 'residual' to add");
    first.width = width;
    first.epsilon = epsilon_;
    if (rows == 0 || width == 0) return;

    const int64_t rows_per_task = std::max<int64_t>(1, 16384 / width);
    context.parallel_for(static_cast<size_t>((rows + rows_per_task - 1) / rows_per_task), [&](size_t task) {
      const int64_t begin = static_cast<int64_t>(task) * rows_per_task;
      for (int64_t row = begin; row < std::min(rows, begin + rows_per_task); ++row) kernel_(row_of(first, row));
    });
  }

 private:
  static NormRow row_of(NormRow row, int64_t index) {
    row.x += index * row.width;
    row.y += index * row.width;
    if (row.residual != nullptr) row.residual += index * row.width;
    if (row.sum != nullptr) row.sum += index * row.width;
    return row;
  }

  void (*const kernel_)(const NormRow&);
  const size_t residual_index_;
  const float epsilon_;
};

}  // namespace

const OpDefinition kRmsNormOp = {
    "RMSNorm",
    {{"x", ort::kFloat}, {"weight", ort::kFloat}, {"residual", ort::kFloat, true}},
    {{"y", ort::kFloat}, {"sum", ort::kFloat, true}},
    [](const Attributes& attributes, const KernelTable& table) -> std::unique_ptr<Kernel> {
      return std::make_unique<Norm>(attributes, table.norm->rms, 2);
    },
};

const OpDefinition kLayerNormOp = {
    "LayerNorm",
    {{"x", ort::kFloat}, {"weight", ort::kFloat}, {"bias", ort::kFloat}, {"residual", ort::kFloat, true}},
    {{"y", ort::kFloat}, {"sum", ort::kFloat, true}},
    [](const Attributes& attributes, const KernelTable& table) -> std::unique_ptr<Kernel> {
      return std::make_unique<Norm>(attributes, table.norm->layer, 3);
    },
};

}  // namespace edge
