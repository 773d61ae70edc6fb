// Attention for any instruction set of simd/: append a token to the cache, attend from a tile of tokens.
#pragma once

#include "attention.h"
#include "flash.h"
#include "head.h"
#include "tile_memory.h"

namespace edge {
namespace {

// How each cache type stores one head of one token, and gives it back as float32.
template <class S>
struct Float32Cache {
  static constexpr size_t kBytes = 4;
  static void store(const float* x, int head_dim, void* cache, float*, int64_t row) {
    std::memcpy(static_cast<float*>(cache) + row * head_dim, x, static_cast<size_t>(head_dim) * 4);
  }
  static void load(const void* stored, int head_dim, float* x) {
    std::memcpy(x, stored, static_cast<size_t>(head_dim) * 4);
  }
};

template <class S>
struct Float16Cache {
  static constexpr size_t kBytes = 2;
  static void store(const float* x, int head_dim, void* cache, float*, int64_t row) {
    uint16_t* out = static_cast<uint16_t*>(cache) + row * head_dim;
    for (int d = 0; d < head_dim; d += 16) {
      uint16_t half[16];
      S::store_f16(half, S::load_first(x + d, head_dim - d));
      std::memcpy(out + d, half, 2 * static_cast<size_t>(head_dim - d < 16 ? head_dim - d : 16));
    }
  }
  static void load(const void* stored, int head_dim, float* x) {
    const uint16_t* in = static_cast<const uint16_t*>(stored);
    int d = 0;
    for (; d + 16 <= head_dim; d += 16) S::store(x + d, S::load_f16(in + d));
    if (d == head_dim) return;
    uint16_t half[16] = {};
    std::memcpy(half, in + d, 2 * static_cast<size_t>(head_dim - d));
    S::store_first(x + d, S::load_f16(half), head_dim - d);
  }
};

template <class S>
struct Int8Cache {
  static void store(const float* x, int head_dim, void* cache, float* scales, int64_t row) {
    scales[row] = quantize_head<S>(x, head_dim, static_cast<int8_t*>(cache) + row * head_dim).scale;
  }
};

// Up to sixteen positions of one chat and kv head in the pools, in rows of head_dim.
struct CacheRows {
  int64_t index[16];
  int count;

  // Positions [position, end), as many as fit.
  CacheRows(const AttentionRun& run, int32_t table_row, int64_t position, int64_t end, int kv_head) {
    count = static_cast<int>(end - position < 16 ? end - position : 16);
    const int32_t* blocks = run.block_table + table_row * run.max_blocks;
    int64_t block = position / run.block_size, place = position % run.block_size;
    for (int i = 0; i < count; ++i) {
      index[i] = (static_cast<int64_t>(blocks[block]) * run.kv_heads + kv_head) * run.block_size + place;
      if (++place == run.block_size) {
        place = 0;
        ++block;
      }
    }
  }

  // Their memory in one of the pools; zeros past `count`.
  void locate(const void* pool, size_t row_bytes, const void** rows) const {
    alignas(64) static const float zeros[kMaxHeadDim] = {};
    for (int i = 0; i < 16; ++i) {
      rows[i] = i < count ? static_cast<const uint8_t*>(pool) + static_cast<size_t>(index[i]) * row_bytes
                          : static_cast<const void*>(zeros);
    }
  }
  // Starts reading position i of a pool: in a long chat it comes from memory, and each row is too short for the
  // processor to see a pattern. Spread over other work, as only some twenty lines can be under way.
  template <class S>
  void prefetch(const void* pool, size_t row_bytes, int i) const {
    if (i >= count) return;
    const uint8_t* row = static_cast<const uint8_t*>(pool) + static_cast<size_t>(index[i]) * row_bytes;
    for (size_t byte = 0; byte < row_bytes; byte += 64) S::prefetch(row + byte);
  }
  void read_scales(const float* pool, float* scales) const {
    for (int i = 0; i < 16; ++i) scales[i] = i < count ? pool[index[i]] : 0.0f;
  }
};

// Keys and values of one key tile, packed as flash.h wants them. `Cache` decides the types.
template <class S, class Cache>
struct FloatTile {
  using Keys = FloatKeys<S>;
  using Values = FloatValues<S>;
  float *keys, *values, *staging;
  int width;

  FloatTile(TilePieces& tile, int head_dim) : width((head_dim + 15) / 16 * 16) {
    keys = tile.take<float>(static_cast<size_t>(kKeyTile * head_dim));
    values = tile.take<float>(static_cast<size_t>(kKeyTile * width));
    staging = tile.take<float>(static_cast<size_t>(16 * head_dim));
    // Columns past head_dim are never written again, and must be finite.
    for (int i = 0; i < kKeyTile * width; i += 16) S::store(values + i, S::zero());
  }
  const float* value_scale() const { return nullptr; }
  static size_t row_bytes(const AttentionRun& run) { return static_cast<size_t>(run.head_dim) * Cache::kBytes; }

  void pack(const AttentionRun& run, const CacheRows& places, const CacheRows& next, int group) {
    const void* rows[16];
    places.locate(run.key_cache, row_bytes(run), rows);
    const void* converted[16];
    for (int i = 0; i < 16; ++i) {
      next.prefetch<S>(run.key_cache, row_bytes(run), i);
      Cache::load(rows[i], run.head_dim, staging + i * run.head_dim);
      converted[i] = staging + i * run.head_dim;
    }
    transpose_words<S>(converted, run.head_dim, reinterpret_cast<uint8_t*>(keys + group * 16 * run.head_dim));
    places.locate(run.value_cache, row_bytes(run), rows);
    for (int i = 0; i < 16; ++i) {
      next.prefetch<S>(run.value_cache, row_bytes(run), i);
      Cache::load(rows[i], run.head_dim, values + (group * 16 + i) * width);
    }
  }
};

template <class S>
struct Int8Tile {
  uint8_t* keys;
  float *key_scales, *value_scales;
  int width;

  Int8Tile(TilePieces& tile, int head_dim) : width((head_dim + 15) / 16 * 16) {
    keys = tile.take<uint8_t>(static_cast<size_t>(kKeyTile * head_dim));
    key_scales = tile.take<float>(kKeyTile);
    value_scales = tile.take<float>(kKeyTile);
  }
  const float* value_scale() const { return value_scales; }
  static size_t row_bytes(const AttentionRun& run) { return static_cast<size_t>(run.head_dim); }

  // Packs the keys and leaves the rows of the values in `rows`.
  void pack_keys(const AttentionRun& run, const CacheRows& places, const CacheRows& next, int group,
                 const void** rows) {
    for (int i = 0; i < 16; ++i) next.prefetch<S>(run.key_cache, row_bytes(run), i);
    places.locate(run.key_cache, static_cast<size_t>(run.head_dim), rows);
    places.read_scales(run.key_scale, key_scales + group * 16);
    pack_int8_keys<S>(rows, run.head_dim, keys + group * 16 * run.head_dim);
    places.locate(run.value_cache, static_cast<size_t>(run.head_dim), rows);
    places.read_scales(run.value_scale, value_scales + group * 16);
  }
};

// The last, fewer than sixteen, int8 values of a row, without reading past its end.
template <class S>
typename S::F32 load_last_i8(const int8_t* p, int count) {
  int8_t last[16] = {};
  std::memcpy(last, p, static_cast<size_t>(count));
  return S::load_i8(last);
}

// int8 values as float32, where there is no bfloat16 multiply.
template <class S, bool kBf16>
struct Int8ValueTile : Int8Tile<S> {
  using Keys = Int8Keys<S>;
  using Values = FloatValues<S>;
  float* values;

  Int8ValueTile(TilePieces& tile, int head_dim) : Int8Tile<S>(tile, head_dim) {
    values = tile.take<float>(static_cast<size_t>(kKeyTile * this->width));
  }
  void pack(const AttentionRun& run, const CacheRows& places, const CacheRows& next, int group) {
    const void* rows[16];
    this->pack_keys(run, places, next, group, rows);
    for (int i = 0; i < 16; ++i) {
      next.prefetch<S>(run.value_cache, this->row_bytes(run), i);
      const auto* row = static_cast<const int8_t*>(rows[i]);
      float* out = values + (group * 16 + i) * this->width;
      int d = 0;
      for (; d + 16 <= run.head_dim; d += 16) S::store(out + d, S::load_i8(row + d));
      if (d < run.head_dim) S::store(out + d, load_last_i8<S>(row + d, run.head_dim - d));
    }
  }
};

// int8 values as bfloat16, which holds them exactly.
template <class S>
struct Int8ValueTile<S, true> : Int8Tile<S> {
  using Keys = Int8Keys<S>;
  using Values = Bf16Values<S>;
  uint16_t* values;

  Int8ValueTile(TilePieces& tile, int head_dim) : Int8Tile<S>(tile, head_dim) {
    values = tile.take<uint16_t>(static_cast<size_t>(kKeyTile * this->width));
  }
  void pack(const AttentionRun& run, const CacheRows& places, const CacheRows& next, int group) {
    const void* rows[16];
    this->pack_keys(run, places, next, group, rows);
    for (int i = 0; i < 16; i += 2) {
      next.prefetch<S>(run.value_cache, this->row_bytes(run), i);
      next.prefetch<S>(run.value_cache, this->row_bytes(run), i + 1);
      const auto *even = static_cast<const int8_t*>(rows[i]), *odd = static_cast<const int8_t*>(rows[i + 1]);
      uint16_t* out = values + (group * 16 + i) * this->width;
      int d = 0;
      for (; d + 16 <= run.head_dim; d += 16)
        S::store_exact_pairs(out + 2 * d, S::load_i8(even + d), S::load_i8(odd + d));
      const int left = run.head_dim - d;
      if (left > 0) S::store_exact_pairs(out + 2 * d, load_last_i8<S>(even + d, left), load_last_i8<S>(odd + d, left));
    }
  }
};

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
      const CacheRows next(run, run.token_row[begin], first + 16, longest, kv_head);
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

template <class S>
constexpr AttentionKernels attention_kernels() {
  return {append<S>, attend<S>};
}

}  // namespace
}  // namespace edge
