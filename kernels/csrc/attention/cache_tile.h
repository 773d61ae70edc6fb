// The paged cache as the kernels see it: how each type stores a head of a token, where positions lie, and the packing
// of a tile of keys and values into what flash.h multiplies.
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

  // Positions [position, end), as many as fit; none if `end` is not beyond `position`.
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
    next.prefetch<S>(run.key_scale, sizeof(float), 0);  // sixteen scales are one line, or seldom two
    next.prefetch<S>(run.value_scale, sizeof(float), 0);
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

}  // namespace
}  // namespace edge
