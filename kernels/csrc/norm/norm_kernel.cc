// RMSNorm and LayerNorm of one row for any instruction set of simd/.
#include EDGE_SIMD_HEADER

#include <cmath>

#include "norm.h"

namespace edge {
namespace {

template <class S>
typename S::F32 norm_input(const NormRow& row, int64_t i) {
  const int left = static_cast<int>(row.width - i);
  const auto x = S::load_first(row.x + i, left);
  if (row.residual == nullptr) return x;
  const auto sum = S::add(x, S::load_first(row.residual + i, left));
  if (row.sum != nullptr) S::store_first(row.sum + i, sum, left);
  return sum;
}

template <class S>
void rms_norm(const NormRow& row) {
  auto squares = S::zero();
  for (int64_t i = 0; i < row.width; i += 16) {
    const auto x = norm_input<S>(row, i);
    squares = S::fma(x, x, squares);
  }
  const float mean = S::sum(squares) / static_cast<float>(row.width);
  const auto scale = S::splat(1.0f / std::sqrt(mean + row.epsilon));
  for (int64_t i = 0; i < row.width; i += 16) {
    const int left = static_cast<int>(row.width - i);
    S::store_first(row.y + i, S::mul(S::mul(norm_input<S>(row, i), scale), S::load_first(row.weight + i, left)), left);
  }
}

template <class S>
void layer_norm(const NormRow& row) {
  auto sum = S::zero();
  for (int64_t i = 0; i < row.width; i += 16) sum = S::add(sum, norm_input<S>(row, i));
  const auto mean = S::splat(S::sum(sum) / static_cast<float>(row.width));
  auto squares = S::zero();
  for (int64_t i = 0; i < row.width; i += 16) {
    const auto d = S::fill_after(S::sub(norm_input<S>(row, i), mean), static_cast<int>(row.width - i), 0.0f);
    squares = S::fma(d, d, squares);
  }
  const float variance = S::sum(squares) / static_cast<float>(row.width);
  const auto scale = S::splat(1.0f / std::sqrt(variance + row.epsilon));
  for (int64_t i = 0; i < row.width; i += 16) {
    const int left = static_cast<int>(row.width - i);
    const auto normal = S::mul(S::sub(norm_input<S>(row, i), mean), scale);
    S::store_first(row.y + i, S::fma(normal, S::load_first(row.weight + i, left), S::load_first(row.bias + i, left)),
                   left);
  }
}

}  // namespace

namespace EDGE_ISA {
extern constexpr NormKernels norm = {rms_norm<EDGE_SIMD>, layer_norm<EDGE_SIMD>};
}

}  // namespace edge
