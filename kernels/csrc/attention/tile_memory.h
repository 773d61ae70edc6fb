// The sizes of one attention tile, and its memory, cut from one block of scratch. Shared by Attention and
// VisionAttention.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge {
namespace {

constexpr int kMaxHeadDim = 256;
// Query rows of a tile: enough to pay for packing the keys, few enough to stay in the second cache level; a multiple
// of the six rows that registers hold.
constexpr int kTileQueryRows = 60;
// Keys of a tile: enough to pay for renewing the running maximum; a multiple of the sixteen lanes.
constexpr int kTileKeys = 128;

constexpr size_t tile_piece(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Cuts pieces off the block that starts at `next`.
struct TilePieces {
  uint8_t* next;
  template <class T>
  T* take(size_t count) {
    T* piece = reinterpret_cast<T*>(next);
    next += tile_piece(count * sizeof(T));
    return piece;
  }
};

// Bytes for a tile of `rows` query rows, whichever types the queries, keys and values have.
constexpr size_t tile_memory_bytes(size_t rows, size_t head_dim) {
  const size_t width = (head_dim + 15) / 16 * 16;
  const size_t row_bytes = tile_piece(rows * head_dim * 4) + 5 * tile_piece((rows + 16) * 4) + tile_piece(rows * 64) +
                           tile_piece(rows * width * 4) + 2 * tile_piece(rows * kTileKeys * 4);
  const size_t key_bytes = 2 * tile_piece(kTileKeys * width * 4) + 2 * tile_piece(kTileKeys * 4);
  const size_t staging_bytes = 16 * tile_piece(head_dim * 4);
  return row_bytes + key_bytes + staging_bytes + 64;
}

}  // namespace
}  // namespace edge
