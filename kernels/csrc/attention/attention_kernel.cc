// Attention for any instruction set of simd/: append a token to the cache, attend from a tile of tokens.
#include EDGE_SIMD_HEADER

#include "cache_tile.h"

namespace edge {
namespace {

// The query rows of a tile, normalized and rotated: row (token - begin) * group_size + head in group.
template <class S>
struct QueryRows {
  float* q;  // [rows, head_dim], times softmax scale x log2(e)
  int8_t* q8;
  float* factor;
  int32_t* start;

  QueryRows(TilePieces& tile, size_t rows, int head_dim) {
    q = tile.take<float>(rows * static_cast<size_t>(head_dim));
    q8 = reinterpret_cast<int8_t*>(q);  // row by row, each over floats already read
    factor = tile.take<float>(rows);
    start = tile.take<int32_t>(rows);
  }

  void prepare(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, bool quantized) {
    const int group_size = run.heads / run.kv_heads, half = run.head_dim / 2;
    const int64_t stride = static_cast<int64_t>(run.heads + 2 * run.kv_heads) * run.head_dim;
    int row = 0;
    for (int64_t token = begin; token < end; ++token) {
      for (int i = 0; i < group_size; ++i, ++row) {
        alignas(64) float x[kMaxHeadDim];
        const float* in = run.qkv + token * stride + (kv_head * group_size + i) * run.head_dim;
        head_norm<S>(in, run.q_norm, run.head_dim, run.epsilon, x);
        rotate<S>(x, run.rope_cos + token * half, run.rope_sin + token * half, run.head_dim, x);
        if (quantized) {
          const Int8Scale scale = quantize_head<S>(x, run.head_dim, q8 + row * run.head_dim);
          factor[row] = scale.scale * run.scale * kLog2E;
          start[row] = -S::kInt8Zero * scale.sum;
        } else {
          for (int d = 0; d < run.head_dim; ++d) q[row * run.head_dim + d] = x[d] * (run.scale * kLog2E);
        }
      }
    }
  }
};

// A long cache comes from memory: how early to ask for keys and values. Not worth it where many rows share a tile.
constexpr int kKeysAhead = 32;
constexpr int kMostRowsAhead = 12;

template <class S, class Tile, class MakeKeys, class MakeValues>
void attend_tile(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, TilePieces memory, Tile& tile,
                 const MakeKeys& make_keys, const MakeValues& make_values) {
  const int group_size = run.heads / run.kv_heads;
  const size_t rows = static_cast<size_t>(end - begin) * static_cast<size_t>(group_size);
  const FlashState state = flash_state(memory, static_cast<int>(rows), tile.width);
  int* seen = memory.take<int>(rows);

  int64_t longest = 0;
  for (int64_t t = begin; t < end; ++t) longest = run.token_keys[t] > longest ? run.token_keys[t] : longest;
  flash_begin<S>(state);
  for (int64_t position = 0; position < longest; position += kKeyTile) {
    const int count = static_cast<int>(longest - position < kKeyTile ? longest - position : kKeyTile);
    for (int group = 0; group * 16 < count; ++group) {
      const int64_t first = position + group * 16;
      const int64_t ahead = first + kKeysAhead;
      const CacheRows next(run, run.token_row[begin], ahead, state.rows <= kMostRowsAhead ? longest : ahead, kv_head);
      tile.pack(run, CacheRows(run, run.token_row[begin], first, longest, kv_head), next, group);
    }
    for (int r = 0; r < state.rows; ++r) {
      const int64_t left = run.token_keys[begin + r / group_size] - position;
      seen[r] = static_cast<int>(left < 0 ? 0 : left > kKeyTile ? kKeyTile : left);
    }
    flash_step<S>(state, make_keys(), make_values(), tile.value_scale(), seen, (count + 15) / 16 * 16);
  }
  for (int r = 0; r < state.rows; ++r) {
    const int64_t token = begin + r / group_size, head = kv_head * group_size + r % group_size;
    flash_end<S>(state, r, run.head_dim, run.out + (token * run.heads + head) * run.head_dim);
  }
}

template <class S, class Cache>
void attend_float(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, void* scratch) {
  TilePieces memory{static_cast<uint8_t*>(scratch)};
  QueryRows<S> queries(memory, static_cast<size_t>(end - begin) * static_cast<size_t>(run.heads / run.kv_heads),
                       run.head_dim);
  queries.prepare(run, begin, end, kv_head, false);
  FloatTile<S, Cache> tile(memory, run.head_dim);
  attend_tile<S>(
      run, begin, end, kv_head, memory, tile,
      [&] {
        return FloatKeys<S>{queries.q, tile.keys, run.head_dim};
      },
      [&] {
        return FloatValues<S>{tile.values, tile.width};
      });
}

template <class S>
void attend_int8(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, void* scratch) {
  using Tile = Int8ValueTile<S, S::kBf16>;
  TilePieces memory{static_cast<uint8_t*>(scratch)};
  QueryRows<S> queries(memory, static_cast<size_t>(end - begin) * static_cast<size_t>(run.heads / run.kv_heads),
                       run.head_dim);
  queries.prepare(run, begin, end, kv_head, true);
  Tile tile(memory, run.head_dim);
  attend_tile<S>(
      run, begin, end, kv_head, memory, tile,
      [&] { return Int8Keys<S>{queries.q8, queries.factor, queries.start, tile.keys, tile.key_scales, run.head_dim}; },
      [&] {
        return typename Tile::Values{tile.values, tile.width};
      });
}

template <class S>
void attend(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, void* scratch) {
  switch (run.cache) {
    case CacheType::kFloat32:
      return attend_float<S, Float32Cache<S>>(run, begin, end, kv_head, scratch);
    case CacheType::kFloat16:
      return attend_float<S, Float16Cache<S>>(run, begin, end, kv_head, scratch);
    case CacheType::kInt8:
      return attend_int8<S>(run, begin, end, kv_head, scratch);
  }
}

template <class S, class Cache>
void append_as(const AttentionRun& run, int64_t token) {
  const int half = run.head_dim / 2;
  const float* keys = run.qkv + (token * (run.heads + 2 * run.kv_heads) + run.heads) * run.head_dim;
  const float* values = keys + run.kv_heads * run.head_dim;
  for (int head = 0; head < run.kv_heads; ++head) {
    alignas(64) float key[kMaxHeadDim];
    head_norm<S>(keys + head * run.head_dim, run.k_norm, run.head_dim, run.epsilon, key);
    rotate<S>(key, run.rope_cos + token * half, run.rope_sin + token * half, run.head_dim, key);
    const int64_t slot = run.token_slot[token];
    const int64_t row = CacheRows(run, run.token_row[token], slot, slot + 1, head).index[0];
    Cache::store(key, run.head_dim, run.key_cache, run.key_scale, row);
    Cache::store(values + head * run.head_dim, run.head_dim, run.value_cache, run.value_scale, row);
  }
}

template <class S>
void append(const AttentionRun& run, int64_t token) {
  switch (run.cache) {
    case CacheType::kFloat32:
      return append_as<S, Float32Cache<S>>(run, token);
    case CacheType::kFloat16:
      return append_as<S, Float16Cache<S>>(run, token);
    case CacheType::kInt8:
      return append_as<S, Int8Cache<S>>(run, token);
  }
}

}  // namespace

namespace EDGE_ISA {
extern constexpr AttentionKernels attention = {append<EDGE_SIMD>, attend<EDGE_SIMD>};
}

}  // namespace edge
