// One step of tiled attention with online softmax, shared by Attention and VisionAttention and by all instruction sets.
//
// A tile of query rows meets kKeyTile keys: scores, running maximum and sum, and the weighted sum of values. Keys and
// values come packed for the instruction set; where from is the caller's business. Every row goes through the same
// operations in the same order whatever rows share its tile: a key it does not see gets probability exactly 0, and a
// tile in which it sees nothing leaves it as it was.
#pragma once

#include <cstdint>

#include "simd/math.h"
#include "tile_memory.h"

namespace edge {
namespace {

constexpr int kKeyTile = kTileKeys;
constexpr float kLog2E = 1.44269504f;   // scores are kept in base 2
constexpr float kNothingSeen = -1e30f;  // a maximum below every score, yet finite: no NaN from infinity minus itself

// int8 queries and keys: exact integer products, so the order of the head dimension does not matter.
template <class S>
struct Int8Keys {
  const int8_t* q;         // [rows, head_dim]
  const float* q_factor;   // [rows] quantization scale x softmax scale x log2(e)
  const int32_t* q_start;  // [rows] -S::kInt8Zero x sum of the row
  const uint8_t* k;        // [kKeyTile/16][head_dim/4][16][4], zero point 128
  const float* k_scale;    // [kKeyTile]
  int head_dim;

  template <int kRows, int kGroups>
  void scores(int row, int group, float* out) const {
    each_row<kRows, kGroups>(row, group, [&](int r, const typename S::F32(&product)[kGroups]) {
      const auto factor = S::splat(q_factor[r]);
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        const auto scale = S::mul(factor, S::load(k_scale + (group + g) * 16));
        S::store(out + r * kKeyTile + (group + g) * 16, S::mul(product[g], scale));
      }
    });
  }

  // Calls fn(row, its products with kGroups x 16 keys) for kRows rows, the products still in registers: whole numbers,
  // to be multiplied with q_factor and k_scale.
  template <int kRows, int kGroups, class Fn>
  inline __attribute__((always_inline)) void each_row(int row, int group, const Fn& fn) const {
    typename S::I32 acc[kRows][kGroups];
    const int8_t* x = q + row * head_dim;
    const uint8_t* w = k + group * head_dim * 16;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) acc[r][g] = S::splat_i32(q_start[row + r]);
    }
    for (int d = 0; d < head_dim; d += 4) {
      typename S::Bytes keys[kGroups];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) keys[g] = S::load_bytes(w + g * head_dim * 16 + d * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) acc[r][g] = S::dot(acc[r][g], keys[g], x + r * head_dim + d);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      typename S::F32 product[kGroups];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) product[g] = S::to_f32(acc[r][g]);
      fn(row + r, product);
    }
  }
};

// float32 queries (already times softmax scale x log2(e)) and keys.
template <class S>
struct FloatKeys {
  const float* q;  // [rows, head_dim]
  const float* k;  // [kKeyTile/16][head_dim][16]
  int head_dim;

  template <int kRows, int kGroups>
  void scores(int row, int group, float* out) const {
    typename S::F32 acc[kRows][kGroups];
    const float* x = q + row * head_dim;
    const float* w = k + group * head_dim * 16;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) acc[r][g] = S::zero();
    }
    for (int d = 0; d < head_dim; ++d) {
      typename S::F32 keys[kGroups];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) keys[g] = S::load(w + (g * head_dim + d) * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto value = S::splat(x[r * head_dim + d]);
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) acc[r][g] = S::fma(keys[g], value, acc[r][g]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) S::store(out + (row + r) * kKeyTile + (group + g) * 16, acc[r][g]);
    }
  }
};

// float32 values.
template <class S>
struct FloatValues {
  using Probability = float;
  static constexpr int kKeysPerStep = 1;
  const float* v;  // [kKeyTile, width], width a multiple of 16
  int width;

  static void store(Probability* p, typename S::F32 x) { S::store(p, x); }
  typename S::F32 load(int key, int column) const { return S::load(v + key * width + column); }
  static typename S::F32 accumulate(typename S::F32 acc, typename S::F32 value, const Probability* p) {
    return S::fma(value, S::splat(*p), acc);
  }
};

// bfloat16 values and probabilities, two keys per multiply; sums in float32.
template <class S>
struct Bf16Values {
  using Probability = uint16_t;
  static constexpr int kKeysPerStep = 2;
  const uint16_t* v;  // [kKeyTile/2, width, 2], width a multiple of 16
  int width;

  static void store(Probability* p, typename S::F32 x) { S::store_bf16(p, x); }
  typename S::Pairs load(int key, int column) const { return S::load_pairs(v + key * width + column * 2); }
  static typename S::F32 accumulate(typename S::F32 acc, typename S::Pairs value, const Probability* p) {
    return S::dot_pairs(acc, value, p);
  }
};

// What a tile of rows carries from step to step. `probability` has room for either type.
struct FlashState {
  float* maximum;     // [rows]
  float* sum;         // [rows, 16] lanes, added up at the end
  float* out;         // [rows, width]
  float* score;       // [rows, kKeyTile]
  void* probability;  // [rows, kKeyTile]
  float* rescale;     // [rows + 16] what the older sum and out are multiplied with
  int rows;
  int width;
};

inline FlashState flash_state(TilePieces& memory, int rows, int width) {
  const size_t n = static_cast<size_t>(rows);
  FlashState state;
  state.maximum = memory.take<float>(n);
  state.sum = memory.take<float>(n * 16);
  state.out = memory.take<float>(n * static_cast<size_t>(width));
  state.score = memory.take<float>(n * kKeyTile);
  state.probability = memory.take<float>(n * kKeyTile);
  state.rescale = memory.take<float>(n + 16);
  state.rows = rows;
  state.width = width;
  return state;
}

template <class S>
void flash_begin(const FlashState& state) {
  for (int r = 0; r < state.rows; ++r) state.maximum[r] = kNothingSeen;
  for (int i = 0; i < state.rows * 16; i += 16) S::store(state.sum + i, S::zero());
  for (int i = 0; i < state.rows * state.width; i += 16) S::store(state.out + i, S::zero());
}

// Calls fn.template operator()<rows, groups>(row, group) over a rows x groups grid in tiles that fit the registers.
template <class S, int kGroups, int kRows, class Fn>
void grid_rows(int row, int rows, int group, const Fn& fn) {
  for (; rows >= kRows; row += kRows, rows -= kRows) fn.template run<kRows, kGroups>(row, group);
  if constexpr (kRows > 1) {
    if (rows > 0) grid_rows<S, kGroups, kRows - 1>(row, rows, group, fn);
  }
}
template <class S, class Fn>
void for_grid(int rows, int groups, const Fn& fn) {
  int group = 0;
  for (; group + S::kGridGroups <= groups; group += S::kGridGroups) {
    grid_rows<S, S::kGridGroups, S::kGridRows>(0, rows, group, fn);
  }
  for (; group < groups; ++group) grid_rows<S, 1, S::kGridRows>(0, rows, group, fn);
}

template <class Keys>
struct ScoreGrid {
  const Keys& keys;
  float* out;
  template <int kRows, int kGroups>
  void run(int row, int group) const {
    keys.template scores<kRows, kGroups>(row, group, out);
  }
};

// out[row] = out[row] * rescale[row] + sum over keys of probability * value
template <class S, class Values>
struct ValueGrid {
  const Values& values;
  const FlashState& state;
  int keys;
  template <int kRows, int kGroups>
  void run(int row, int group) const {
    const auto* p = static_cast<const typename Values::Probability*>(state.probability) + row * kKeyTile;
    float* out = state.out + row * state.width + group * 16;
    typename S::F32 acc[kRows][kGroups];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto factor = S::splat(state.rescale[row + r]);
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) acc[r][g] = S::mul(S::load(out + r * state.width + g * 16), factor);
    }
    for (int key = 0; key < keys; key += Values::kKeysPerStep) {
      decltype(values.load(0, 0)) v[kGroups];
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) v[g] = values.load(key, (group + g) * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) acc[r][g] = Values::accumulate(acc[r][g], v[g], p + r * kKeyTile + key);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) S::store(out + r * state.width + g * 16, acc[r][g]);
    }
  }
};

// Largest of the first `seen` scores of a row, or `floor` if that is larger.
template <class S>
float row_maximum(const float* score, int seen, float floor) {
  auto peak = S::splat(floor);
  int i = 0;
  for (; i + 16 <= seen; i += 16) peak = S::max(peak, S::load(score + i));
  if (i < seen) peak = S::max(peak, S::fill_after(S::load(score + i), seen - i, floor));
  return S::max_lane(peak);
}

// Probabilities of a row: exp2(score - maximum), 0 from `seen` on, and times v_scale where values are scaled.
template <class S, class Values>
void row_probabilities(const FlashState& state, int row, int seen, int keys, const float* v_scale) {
  const float* score = state.score + row * kKeyTile;
  auto* out = static_cast<typename Values::Probability*>(state.probability) + row * kKeyTile;
  const auto maximum = S::splat(state.maximum[row]);
  auto sum = S::mul(S::load(state.sum + row * 16), S::splat(state.rescale[row]));
  for (int i = 0; i < keys; i += 16) {
    auto p = S::zero();
    if (i < seen) {
      p = exp2<S>(S::sub(S::load(score + i), maximum));
      if (seen - i < 16) p = S::fill_after(p, seen - i, 0.0f);
    }
    sum = S::add(sum, p);
    Values::store(out + i, v_scale == nullptr ? p : S::mul(p, S::load(v_scale + i)));
  }
  S::store(state.sum + row * 16, sum);
}

// One tile of keys. Row r sees the first seen[r] of them; `keys` is the largest of those rounded up to 16.
template <class S, class Keys, class Values>
void flash_step(const FlashState& state, const Keys& keys_tile, const Values& values, const float* v_scale,
                const int* seen, int keys) {
  for_grid<S>(state.rows, keys / 16, ScoreGrid<Keys>{keys_tile, state.score});
  for (int r = 0; r < state.rows; ++r) {
    const float before = state.maximum[r];
    const float after = seen[r] > 0 ? row_maximum<S>(state.score + r * kKeyTile, seen[r], before) : before;
    state.maximum[r] = after;
    state.rescale[r] = before - after;
  }
  for (int r = 0; r < state.rows; r += 16) S::store(state.rescale + r, exp2<S>(S::load(state.rescale + r)));
  for (int r = 0; r < state.rows; ++r) row_probabilities<S, Values>(state, r, seen[r], keys, v_scale);
  for_grid<S>(state.rows, state.width / 16, ValueGrid<S, Values>{values, state, keys});
}

// out[row] / sum[row], the first head_dim columns, to `destination`.
template <class S>
void flash_end(const FlashState& state, int row, int head_dim, float* destination) {
  const float total = S::sum(S::load(state.sum + row * 16));
  const auto inverse = S::splat(total > 0 ? 1.0f / total : 0.0f);
  for (int d = 0; d < head_dim; d += 16) {
    S::store_first(destination + d, S::mul(S::load(state.out + row * state.width + d), inverse), head_dim - d);
  }
}

}  // namespace
}  // namespace edge
