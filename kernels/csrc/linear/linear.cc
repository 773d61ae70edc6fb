// edge.Linear: a matrix of INT4 or INT8 block weights times rows of float32. docs/kernels.md has the schema,
// edge_kernels/reference/linear.py the definition. This file checks shapes and splits the work.
#include "linear.h"

#include <algorithm>

#include "op.h"
#include "ops.h"
#include "scratch.h"

namespace edge {
namespace {

enum Input { kX, kWeight, kScales, kBias, kResidual };

// Rows that are quantized and multiplied together: enough to reuse each weight from the cache, few enough that
// their int8 copy stays in it.
constexpr int64_t kChunkRows = 512;
// A task is this many rows x two groups of channels, or, with few rows, this many bytes of weights.
constexpr int64_t kTaskRows = 192;
constexpr int64_t kTaskBytes = 96 * 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Activation parse_activation(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "silu_mul") return Activation::kSiluMul;
  throw Error(text("attribute 'activation' is '", name, "', wanted none, gelu, gelu_tanh or silu_mul"));
}

class Linear : public Kernel {
 public:
  Linear(const Attributes& attributes, const KernelTable& table)
      : kernels_(*table.linear),
        bits_(static_cast<int>(attributes.integer("bits"))),
        block_(static_cast<int>(attributes.integer("block_size"))),
        features_(attributes.integer("out_features")),
        activation_(parse_activation(attributes.string("activation"))) {
    if (bits_ != 4 && bits_ != 8) throw Error(text("attribute 'bits' is ", bits_, ", wanted 4 or 8"));
    if (block_ != 32 && block_ != 64 && block_ != 128) {
      throw Error(text("attribute 'block_size' is ", block_, ", wanted 32, 64 or 128"));
    }
    if (features_ < 1) throw Error(text("attribute 'out_features' is ", features_, ", wanted at least 1"));
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(kX);
    x.expect(ort::kFloat, {kAny, kAny});
    const int64_t rows = x.dim(0), in = x.dim(1);
    if (in == 0) throw Error(text("input 'x' is ", x.describe(), ", wanted at least one value in a row"));
    const int64_t groups = (activation_ == Activation::kSiluMul ? 2 : 1) * ceil_div(features_, 16);
    const LinearWeights weights = checked_weights(context, in, groups);
    LinearOutput out = checked_output(context, rows);
    if (rows == 0) return;

    const int64_t blocks = weights.in_padded / block_;
    const size_t chunk = static_cast<size_t>(std::min(rows, kChunkRows));
    const size_t in_padded = static_cast<size_t>(weights.in_padded);
    const size_t scale_count = chunk * static_cast<size_t>(blocks);
    Scratch<Linear> scratch(chunk * in_padded + sizeof(float) * (2 * scale_count + chunk) + 192);
    QuantizedRows quantized;
    quantized.values = scratch.take<int8_t>(chunk * in_padded);
    quantized.scales = scratch.take<float>(scale_count);
    quantized.starts = scratch.take<int32_t>(scale_count);
    quantized.poison = scratch.take<float>(chunk);
    for (int64_t row = 0; row < rows; row += kChunkRows) {
      const int64_t count = std::min(kChunkRows, rows - row);
      quantize(context, x.as<float>() + row * in, in, count, weights, quantized);
      multiply(context, weights, quantized, out, count, groups);
      out.out += count * features_;
      if (out.residual != nullptr) out.residual += count * features_;
    }
  }

 private:
  LinearWeights checked_weights(const Context& context, int64_t in, int64_t groups) const {
    const Tensor packed = context.input(kWeight), scales = context.input(kScales);
    const int64_t padded = ceil_div(in, block_) * block_;
    packed.expect(ort::kUint8, {groups, padded * bits_ / 32, 64});
    scales.expect(ort::kFloat16, {groups, padded / block_, 16});
    return {packed.as<uint8_t>(), scales.as<uint16_t>(), bits_, block_, padded};
  }

  LinearOutput checked_output(const Context& context, int64_t rows) const {
    const Tensor bias = context.input(kBias), residual = context.input(kResidual);
    if (bias) bias.expect(ort::kFloat, {features_});
    if (bias && activation_ == Activation::kSiluMul) throw Error("input 'bias' is given, silu_mul takes none");
    if (residual) residual.expect(ort::kFloat, {rows, features_});
    return {context.output(0, {rows, features_}), bias.as<float>(), residual.as<float>(), features_, activation_};
  }

  void quantize(const Context& context, const float* x, int64_t in, int64_t rows, const LinearWeights& weights,
                const QuantizedRows& out) const {
    constexpr int64_t kRowsPerTask = 16;
    context.parallel_for(static_cast<size_t>(ceil_div(rows, kRowsPerTask)), [&](size_t task) {
      const int64_t begin = static_cast<int64_t>(task) * kRowsPerTask;
      for (int64_t row = begin; row < std::min(rows, begin + kRowsPerTask); ++row) {
        kernels_.quantize(x + row * in, in, weights, out, row);
      }
    });
  }

  void multiply(const Context& context, const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out,
                int64_t rows, int64_t groups) const {
    // Two groups, a tile's width, or many when there are few rows; always an even number, for gates and their ups.
    const int64_t group_bytes = weights.in_padded * weights.bits * 2;
    const int64_t width = rows >= kTaskRows / 4 ? 2 : 2 * std::max<int64_t>(1, kTaskBytes / group_bytes / 2);
    const int64_t row_tasks = ceil_div(rows, kTaskRows), group_tasks = ceil_div(groups, width);
    context.parallel_for(static_cast<size_t>(row_tasks * group_tasks), [&](size_t task) {
      const int64_t row = static_cast<int64_t>(task) % row_tasks * kTaskRows;
      const int64_t group = static_cast<int64_t>(task) / row_tasks * width;
      kernels_.multiply(weights, x, out, row, std::min(rows, row + kTaskRows), group, std::min(groups, group + width));
    });
  }

  const LinearKernels& kernels_;
  const int bits_, block_;
  const int64_t features_;
  const Activation activation_;
};

}  // namespace

const OpDefinition kLinearOp = {
    "Linear",
    {{"x", ort::kFloat},
     {"weight", ort::kUint8},
     {"scales", ort::kFloat16},
     {"bias", ort::kFloat, true},
     {"residual", ort::kFloat, true}},
    {{"y", ort::kFloat}},
    [](const Attributes& attributes, const KernelTable& table) -> std::unique_ptr<Kernel> {
      return std::make_unique<Linear>(attributes, table);
    },
};

}  // namespace edge
