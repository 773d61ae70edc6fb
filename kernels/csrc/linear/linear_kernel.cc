// Linear for any instruction set of simd/: multiply a tile, finish it. linear.h has the definition.
#include EDGE_SIMD_HEADER

#include "linear.h"
#include "quantize_row.h"
#include "simd/math.h"

namespace edge {
namespace {

// Weights of one 64-byte step: int4 holds 8 inputs, int8 holds 4.
template <class S, int kBits>
struct Step;
template <class S>
struct Step<S, 4> {
  static constexpr int kInputs = 8;
  static typename S::Nibbles load(const uint8_t* p) { return S::load_nibbles(p); }
};
template <class S>
struct Step<S, 8> {
  static constexpr int kInputs = 4;
  static typename S::Bytes load(const uint8_t* p) { return S::load_bytes(p); }
};

// What the sums of a block are multiplied by: the scales of kGroups x sixteen channels times that of a row.
template <class S, int kGroups, bool kAddsExponents>
struct Factors {
  Factors(const uint16_t* scales, int64_t group_scales) {
    for (int g = 0; g < kGroups; ++g) scale[g] = S::load_f16(scales + g * group_scales);
  }
  typename S::F32 times(int g, const float& x_scale) const { return S::mul(scale[g], S::splat(x_scale)); }
  static typename S::F32 finished(typename S::F32 sum) { return sum; }

  typename S::F32 scale[kGroups];
};
// The same products, times 2^32 until a tile is finished: so a weight scale of zero, whose exponent cannot be added to,
// stays as good as zero.
template <class S, int kGroups>
struct Factors<S, kGroups, true> {
  Factors(const uint16_t* scales, int64_t group_scales) {
    const auto bias = S::splat_i32(-((127 - 32) << 23));
    for (int g = 0; g < kGroups; ++g) exponent[g] = S::add_i32(S::bits(S::load_f16(scales + g * group_scales)), bias);
  }
  typename S::F32 times(int g, const float& x_scale) const {
    return S::from_bits(S::add_i32(exponent[g], S::splat_i32(bits_of(x_scale))));
  }
  static typename S::F32 finished(typename S::F32 sum) { return S::mul(sum, S::splat(0x1p-32f)); }

  typename S::I32 exponent[kGroups];
};

// Two integer chains for each accumulator hide the latency of the multiply where there are few accumulators.
constexpr bool has_two_chains(int rows, int groups) { return rows * groups <= 4; }

// Few rows are bound by reading the weights, each of which is read once: kOnce. They are prefetched past the second cache
// level, which they would only sweep.
constexpr int64_t kPrefetchBytes = 2048;
constexpr int64_t kPrefetchScales = 256;
// A row alone reads groups up to this size one after the other, larger ones side by side (docs/decisions/0033).
constexpr int64_t kShortGroupBytes = 16 * 1024;

// How far from place `at` of a group what is read `distance` later lies. Groups are read side by side, so a group's end
// is followed by the one after its neighbours.
inline int64_t ahead(int64_t at, int64_t distance, int64_t group_size, int groups) {
  return at + distance < group_size ? distance : distance + (groups - 1) * group_size;
}

// Adds one block of inputs to dot[r][g], for kRows rows x kGroups groups. `packed` is the block in the first group;
// `prefetch` bytes from there lies what to prefetch.
// An instruction set with a matrix multiply has its own version.
template <class S, int kBits, int kRows, int kGroups, bool kOnce>
struct BlockDot {
  using W = Step<S, kBits>;

  static inline __attribute__((always_inline)) void add(const uint8_t* packed, int64_t group_bytes, int64_t prefetch,
                                                        const int8_t* values, int64_t row_bytes, int block,
                                                        typename S::I32 (&dot)[kRows][kGroups]) {
    if constexpr (has_two_chains(kRows, kGroups)) {
      typename S::I32 second[kRows][kGroups];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) second[r][g] = S::splat_i32(0);
      }
      for (int k = 0; k < block; k += 2 * W::kInputs) {
        step(packed + k * 64 / W::kInputs, group_bytes, prefetch, values + k, row_bytes, dot);
        step(packed + k * 64 / W::kInputs + 64, group_bytes, prefetch, values + k + W::kInputs, row_bytes, second);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) dot[r][g] = S::add_i32(dot[r][g], second[r][g]);
      }
    } else {
      for (int k = 0; k < block; k += W::kInputs) {
        step(packed + k * 64 / W::kInputs, group_bytes, prefetch, values + k, row_bytes, dot);
      }
    }
  }

 private:
  static inline __attribute__((always_inline)) void step(const uint8_t* packed, int64_t group_bytes, int64_t prefetch,
                                                         const int8_t* values, int64_t row_bytes,
                                                         typename S::I32 (&dot)[kRows][kGroups]) {
    decltype(W::load(packed)) w[kGroups];
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      w[g] = W::load(packed + g * group_bytes);
      if (kOnce) S::prefetch_once(packed + g * group_bytes + prefetch);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) dot[r][g] = S::dot(dot[r][g], w[g], values + r * row_bytes);
    }
  }
};

// acc[r][g] = the channels of group `group + g` for row `row + r`.
template <class S, int kBits, int kRows, int kGroups, bool kOnce>
void multiply_tile(const LinearWeights& weights, const QuantizedRows& x, int64_t row, int64_t group,
                   typename S::F32 (&acc)[kRows][kGroups]) {
  using BlockFactors = Factors<S, kGroups, kBits == 4 && S::kAddsExponents>;
  const int64_t blocks = weights.in_padded / weights.block;
  const int64_t group_bytes = weights.in_padded * kBits * 2, block_bytes = weights.block * kBits * 2;
  const uint8_t* packed = weights.packed + group * group_bytes;
  const uint16_t* scales = weights.scales + group * blocks * 16;
  const int8_t* values = x.values + row * weights.in_padded;
  const float* x_scales = x.scales + row * blocks;
  const int32_t* starts = x.starts + row * blocks;

#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) acc[r][g] = S::splat(x.poison[row + r]);
  }
  for (int64_t b = 0; b < blocks; ++b) {
    typename S::I32 dot[kRows][kGroups];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto start = S::splat_i32(starts[r * blocks + b]);
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) dot[r][g] = start;
    }
    const int64_t prefetch = ahead(b * block_bytes, kPrefetchBytes, group_bytes, kGroups);
    if (kOnce && b % 2 == 0) {  // a line holds the scales of two blocks
      const int64_t scale = b * 16 + ahead(b * 16, kPrefetchScales, blocks * 16, kGroups);
      for (int g = 0; g < kGroups; ++g) S::prefetch_once(scales + g * blocks * 16 + scale);
    }
    BlockDot<S, kBits, kRows, kGroups, kOnce>::add(packed + b * block_bytes, group_bytes, prefetch,
                                                   values + b * weights.block, weights.in_padded, weights.block, dot);
    const BlockFactors factors(scales + b * 16, blocks * 16);
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        acc[r][g] = S::fma(S::to_f32(dot[r][g]), factors.times(g, x_scales[r * blocks + b]), acc[r][g]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) acc[r][g] = BlockFactors::finished(acc[r][g]);
  }
}

// Bias, activation, residual, store: sixteen channels of one row.
template <class S>
void finish(const LinearOutput& out, int64_t row, int64_t channel, typename S::F32 v) {
  const int64_t left = out.features - channel;
  if (left <= 0) return;
  const int n = static_cast<int>(left < 16 ? left : 16);
  if (out.bias != nullptr) v = S::add(v, S::load_first(out.bias + channel, n));
  if (out.activation == Activation::kGelu) v = gelu<S>(v);
  if (out.activation == Activation::kGeluTanh) v = gelu_tanh<S>(v);
  const int64_t place = row * out.features + channel;
  if (out.residual != nullptr) v = S::add(v, S::load_first(out.residual + place, n));
  S::store_first(out.out + place, v, n);
}

template <class S, int kBits, int kRows, int kGroups, bool kOnce>
void finished_tile(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row,
                   int64_t group) {
  // The outputs lie a row apart and are not in the cache: asked for now, they are there when the sums are.
  const int64_t channel = out.activation == Activation::kSiluMul ? group * 8 : group * 16;
  for (int r = 0; r < kRows; ++r) {
    for (int g = 0; g < kGroups; ++g) {
      const int64_t place = (row + r) * out.features + channel + g * 16;
      S::prefetch(out.out + place);
      if (out.residual != nullptr) S::prefetch(out.residual + place);
    }
  }
  typename S::F32 acc[kRows][kGroups];
  if (kRows == 1 && weights.in_padded * kBits * 2 <= kShortGroupBytes) {
    for (int g = 0; g < kGroups; ++g) {
      typename S::F32 one[kRows][1];
      multiply_tile<S, kBits, kRows, 1, kOnce>(weights, x, row, group + g, one);
      acc[0][g] = one[0][0];
    }
  } else {
    multiply_tile<S, kBits, kRows, kGroups, kOnce>(weights, x, row, group, acc);
  }
  for (int r = 0; r < kRows; ++r) {
    if (out.activation == Activation::kSiluMul) {
      finish<S>(out, row + r, group * 8, S::mul(silu<S>(acc[r][0]), acc[r][kGroups - 1]));
      continue;
    }
    for (int g = 0; g < kGroups; ++g) finish<S>(out, row + r, (group + g) * 16, acc[r][g]);
  }
}

// `count` rows, at most S::kTileRows, or S::kOnceRows, as one tile.
template <class S, int kBits, int kGroups, bool kOnce, int kRows = kOnce ? S::kOnceRows : S::kTileRows>
void few_rows(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row, int64_t count,
              int64_t group) {
  if (count == kRows) return finished_tile<S, kBits, kRows, kGroups, kOnce>(weights, x, out, row, group);
  if constexpr (kRows > 1) few_rows<S, kBits, kGroups, kOnce, kRows - 1>(weights, x, out, row, count, group);
}

template <class S, int kBits, int kGroups>
void all_rows(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row_begin,
              int64_t row_end, int64_t group) {
  const int64_t rows = row_end - row_begin;
  if (rows <= S::kOnceRows) return few_rows<S, kBits, kGroups, true>(weights, x, out, row_begin, rows, group);
  for (int64_t row = row_begin; row < row_end; row += S::kTileRows) {
    const int64_t left = row_end - row;
    few_rows<S, kBits, kGroups, false>(weights, x, out, row, left < S::kTileRows ? left : S::kTileRows, group);
  }
}

template <class S, int kBits>
void multiply_groups(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row_begin,
                     int64_t row_end, int64_t group_begin, int64_t group_end) {
  // A gate and its up are finished together, so they need two groups at a time even where registers are few.
  constexpr int kPair = 2;
  const bool pairs = out.activation == Activation::kSiluMul || S::kTileGroups == kPair;
  int64_t group = group_begin;
  for (; pairs && group + kPair <= group_end; group += kPair) {
    all_rows<S, kBits, kPair>(weights, x, out, row_begin, row_end, group);
  }
  for (; group < group_end; ++group) all_rows<S, kBits, 1>(weights, x, out, row_begin, row_end, group);
}

template <class S>
void multiply(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row_begin,
              int64_t row_end, int64_t group_begin, int64_t group_end) {
  const auto run = weights.bits == 4 ? multiply_groups<S, 4> : multiply_groups<S, 8>;
  run(weights, x, out, row_begin, row_end, group_begin, group_end);
}

template <class S>
double int8_peak(int64_t steps) {
  constexpr int kSums = S::kTileRows * S::kTileGroups;
  const uint8_t weights[64] = {1};
  const int8_t x[4] = {1, 2, 3, 4};
  const auto w = S::load_bytes(weights);
  typename S::I32 sums[kSums];
  for (auto& sum : sums) sum = S::splat_i32(0);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) sum = S::dot(sum, w, x);
  }
  int32_t total = 0;
  for (const auto& sum : sums) total |= S::sum_i32(sum);
  // Always true, which the compiler cannot know: the sums are used.
  return total == 0x7eadbeef ? 0.0 : static_cast<double>(steps) * kSums * 64 * 2;
}

}  // namespace

namespace EDGE_ISA {
extern constexpr LinearKernels linear = {quantize_row<EDGE_SIMD>, multiply<EDGE_SIMD>, int8_peak<EDGE_SIMD>};
}

}  // namespace edge
