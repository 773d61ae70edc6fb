// The seam between the RMSNorm and LayerNorm ops (norm.cc) and their kernels (norm_kernel.cc).
#pragma once

#include <cstdint>

namespace edge {

struct NormRow {
  const float* x;
  const float* residual;  // added to x first; or null
  const float* weight;
  const float* bias;  // LayerNorm only
  float* y;
  float* sum;  // x + residual goes here too; or null
  int64_t width;
  float epsilon;
};

struct NormKernels {
  void (*rms)(const NormRow& row);    // y = x / sqrt(mean(x^2) + epsilon) * weight
  void (*layer)(const NormRow& row);  // y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias
};

}  // namespace edge
