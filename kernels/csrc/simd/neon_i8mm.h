// NEON with the int8 matrix multiply of ARMv8.6: simd/neon_dotprod.h, but pairs of rows of Linear go through that
// multiply, which does four times the work of a dot product's half; the sums are exact, so results are the same bits.
#pragma once

#include "neon_dotprod.h"

namespace edge {
namespace {

struct NeonI8mm : NeonDotprod {};

// Of linear/linear_kernel.cc; specialized below.
template <class S, int kBits, int kRows, int kGroups, bool kOnce>
struct BlockDot;

// Eight inputs of two neighbouring channels in a register, as the instruction wants them: the low and high nibbles (or
// two steps of int8) of a channel side by side.
template <int kBits>
struct PairedStep;
template <>
struct PairedStep<4> {
  static void load(const uint8_t* packed, int8x16_t (&w)[8]) {
    const NeonDotprod::Nibbles n = NeonDotprod::load_nibbles(packed);
    for (int i = 0; i < 4; ++i) pair(n.low[i], n.high[i], w + 2 * i);
  }
  static void pair(int8x16_t first, int8x16_t second, int8x16_t* w) {
    const int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
    w[0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
    w[1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
  }
};
template <>
struct PairedStep<8> {
  static void load(const uint8_t* packed, int8x16_t (&w)[8]) {
    const NeonDotprod::Bytes first = NeonDotprod::load_bytes(packed), second = NeonDotprod::load_bytes(packed + 64);
    for (int i = 0; i < 4; ++i) PairedStep<4>::pair(first.v[i], second.v[i], w + 2 * i);
  }
};

// kRows rows, in pairs, x sixteen channels: sums[p][i] holds channels 2i, 2i + 1 of the first row of pair p, then of
// the second.
template <int kBits, int kRows, bool kOnce>
struct PairedRows {
  static void add(const uint8_t* packed, int64_t, int64_t prefetch, const int8_t* values, int64_t row_bytes, int block,
                  NeonI8mm::I32 (&dot)[kRows][1]) {
    int32x4_t sums[kRows / 2][8];
    for (int p = 0; p < kRows / 2; ++p) {
      for (int i = 0; i < 4; ++i) {
        const int32x4_t a = dot[2 * p][0].v[i], b = dot[2 * p + 1][0].v[i];
        sums[p][2 * i] = vcombine_s32(vget_low_s32(a), vget_low_s32(b));
        sums[p][2 * i + 1] = vcombine_s32(vget_high_s32(a), vget_high_s32(b));
      }
    }
    for (int k = 0; k < block; k += 8) {
      int8x16_t w[8];
      PairedStep<kBits>::load(packed + k * kBits * 2, w);
      for (int line = 0; kOnce && line < kBits * 16; line += 64) {
        NeonI8mm::prefetch_once(packed + k * kBits * 2 + line + prefetch);
      }
      for (int p = 0; p < kRows / 2; ++p) {
        const int8_t* rows = values + 2 * p * row_bytes + k;
        const int8x16_t x = vcombine_s8(vld1_s8(rows), vld1_s8(rows + row_bytes));
        for (int i = 0; i < 8; ++i) sums[p][i] = vmmlaq_s32(sums[p][i], x, w[i]);
      }
    }
    for (int p = 0; p < kRows / 2; ++p) {
      for (int i = 0; i < 4; ++i) {
        const int32x4_t a = sums[p][2 * i], b = sums[p][2 * i + 1];
        dot[2 * p][0].v[i] = vcombine_s32(vget_low_s32(a), vget_low_s32(b));
        dot[2 * p + 1][0].v[i] = vcombine_s32(vget_high_s32(a), vget_high_s32(b));
      }
    }
  }
};
template <int kBits, bool kOnce>
struct BlockDot<NeonI8mm, kBits, 2, 1, kOnce> : PairedRows<kBits, 2, kOnce> {};
template <int kBits, bool kOnce>
struct BlockDot<NeonI8mm, kBits, 4, 1, kOnce> : PairedRows<kBits, 4, kOnce> {};

}  // namespace
}  // namespace edge
