// A row of activations to int8, block by block, for any instruction set of simd/. linear.h has the definition.
#pragma once

#include <cstring>

#include "linear.h"

namespace edge {
namespace {

// Activations that meet int4 weights have powers of two as scales: a product with a weight's scale can then be had by
// adding exponents, which leaves the multiplier to the dot products (docs/decisions/0024).
constexpr float kSmallestScale = 0x1p-31f, kLargestScale = 0x1p60f;

inline int32_t bits_of(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// The smallest power of two that is at least x, in the range above.
inline float power_of_two(float x) {
  const uint32_t bits = (static_cast<uint32_t>(bits_of(x)) + 0x7fffff) & 0x7f800000;
  float power;
  std::memcpy(&power, &bits, 4);
  if (!(power > kSmallestScale)) return kSmallestScale;
  return power < kLargestScale ? power : kLargestScale;
}

template <class S>
void quantize_row(const float* x, int64_t in, const LinearWeights& weights, const QuantizedRows& out, int64_t row) {
  const int zero = weights.bits == 4 ? 8 : S::kInt8Zero;
  const int64_t blocks = weights.in_padded / weights.block;
  int8_t* values = out.values + row * weights.in_padded;
  auto poison = S::zero();
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * weights.block;
    const int64_t present = in - begin < weights.block ? in - begin : weights.block;
    auto peak = S::zero();
    for (int64_t k = 0; k < present; k += 16) {
      const auto v = S::load_first(x + begin + k, static_cast<int>(present - k));
      peak = S::max(peak, S::abs(v));
      poison = S::add(poison, S::mul(v, S::zero()));
    }
    const float largest = S::max_lane(peak);
    const float scale = weights.bits == 4 ? power_of_two(largest / 127.0f) : largest / 127.0f;
    const float exact = weights.bits == 4 ? 1.0f / scale : 127.0f / largest;
    const auto inverse = S::splat(largest > 0 ? exact : 0.0f);
    auto sum = S::splat_i32(0);
    for (int64_t k = 0; k < weights.block; k += 16) {
      const int left = static_cast<int>(present - k);
      const auto q = S::to_i32(S::mul(S::load_first(x + begin + k, left > 0 ? left : 0), inverse));
      S::store_i8(values + begin + k, q);
      sum = S::add_i32(sum, q);
    }
    out.scales[row * blocks + b] = scale;
    out.starts[row * blocks + b] = -zero * S::sum_i32(sum);
  }
  out.poison[row] = S::sum(poison) + 0.0f;  // -0 would show in a row of zeros
}

}  // namespace
}  // namespace edge
