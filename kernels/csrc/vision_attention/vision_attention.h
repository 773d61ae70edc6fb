// The seam between the VisionAttention op (vision_attention.cc: checks, threads) and its kernels
// (vision_attention_kernel.cc).
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge {

struct VisionAttentionRun {
  const float* qkv;       // [patches, 3 * heads * head_dim]
  const float* rope_cos;  // [patches, head_dim / 2]
  const float* rope_sin;
  float* out;  // [queries, heads * head_dim]
  int64_t patches;
  int64_t first_query, queries;  // only patches [first_query, first_query + queries) ask; all of them answer
  int heads, head_dim;
  float scale;
};

// Keys and values of one head, ready to multiply. Patches are rounded up to whole key tiles.
struct VisionHead {
  uint8_t* keys;      // int8, [padded/16][head_dim/4][16][4]
  float* key_scales;  // [padded]
  void* values;       // [padded, width] float32, or bfloat16 in pairs of patches
};

struct VisionAttentionKernels {
  size_t value_bytes;  // of one value in VisionHead
  // Packs keys and values [begin, begin + one key tile) of `head`.
  void (*pack)(const VisionAttentionRun& run, int head, int64_t begin, const VisionHead& packed);
  // Outputs of query rows [begin, end) of `head`, at most kTileQueryRows; scratch has tile_memory_bytes.
  void (*attend)(const VisionAttentionRun& run, int head, int64_t begin, int64_t end, const VisionHead& packed,
                 void* scratch);
};

}  // namespace edge
