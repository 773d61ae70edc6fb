// What happens to one head of one token before attention: RMS norm, rotary embedding, quantization to int8; and the
// packing of sixteen keys. Shared by Attention and VisionAttention and by all instruction sets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tile_memory.h"

namespace edge {
namespace {

// y = x / sqrt(mean(x^2) + epsilon) * weight
template <class S>
void head_norm(const float* x, const float* weight, int head_dim, float epsilon, float* y) {
  auto squares = S::zero();
  for (int d = 0; d < head_dim; d += 16) {
    const auto v = S::load_first(x + d, head_dim - d);
    squares = S::fma(v, v, squares);
  }
  const auto scale = S::splat(1.0f / std::sqrt(S::sum(squares) / static_cast<float>(head_dim) + epsilon));
  for (int d = 0; d < head_dim; d += 16) {
    const auto v = S::mul(S::load_first(x + d, head_dim - d), scale);
    S::store_first(y + d, S::mul(v, S::load_first(weight + d, head_dim - d)), head_dim - d);
  }
}

// Rotates the pairs (x[i], x[i + head_dim/2]) by the angles whose cosines and sines are given; x and y may be the same.
template <class S>
void rotate(const float* x, const float* cosine, const float* sine, int head_dim, float* y) {
  const int half = head_dim / 2;
  for (int d = 0; d < half; d += 16) {
    const int left = half - d;
    const auto a = S::load_first(x + d, left), b = S::load_first(x + half + d, left);
    const auto c = S::load_first(cosine + d, left), s = S::load_first(sine + d, left);
    S::store_first(y + d, S::sub(S::mul(a, c), S::mul(b, s)), left);
    S::store_first(y + half + d, S::fma(b, c, S::mul(a, s)), left);
  }
}

struct Int8Scale {
  float scale;
  int32_t sum;  // of the quantized values
};

// q = round(x / scale) with scale = max |x| / 127; head_dim may be any multiple of 4.
template <class S>
Int8Scale quantize_head(const float* x, int head_dim, int8_t* q) {
  auto peak = S::zero();
  for (int d = 0; d < head_dim; d += 16) peak = S::max(peak, S::abs(S::load_first(x + d, head_dim - d)));
  const float largest = S::max_lane(peak);
  const auto inverse = S::splat(largest > 0 ? 127.0f / largest : 0.0f);
  auto sum = S::splat_i32(0);
  for (int d = 0; d < head_dim; d += 16) {
    const auto v = S::to_i32(S::mul(S::load_first(x + d, head_dim - d), inverse));
    sum = S::add_i32(sum, v);
    if (head_dim - d >= 16) {
      S::store_i8(q + d, v);
    } else {
      int8_t last[16];
      S::store_i8(last, v);
      std::memcpy(q + d, last, static_cast<size_t>(head_dim - d));
    }
  }
  return {largest / 127.0f, S::sum_i32(sum)};
}

// out[i][r] = 32-bit word i of row r, for sixteen rows of `words` words.
template <class S>
void transpose_words(const void* const* rows, int words, uint8_t* out) {
  int w = 0;
  for (; w + 16 <= words; w += 16) S::transpose(rows, static_cast<size_t>(w) * 4, out + w * 64);
  for (; w < words; ++w) {
    for (int r = 0; r < 16; ++r) std::memcpy(out + w * 64 + r * 4, static_cast<const uint8_t*>(rows[r]) + w * 4, 4);
  }
}

// Sixteen int8 keys as [head_dim/4][16][4] with zero point 128: the layout of Linear's int8 weights.
template <class S>
void pack_int8_keys(const void* const* rows, int head_dim, uint8_t* out) {
  transpose_words<S>(rows, head_dim / 4, out);
  for (int i = 0; i < head_dim * 16; ++i) out[i] ^= 0x80;
}

}  // namespace
}  // namespace edge
