// The seam between the Attention op (attention.cc: checks, threads) and its kernels (attention_kernel.cc).
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge {

enum class CacheType { kFloat32, kFloat16, kInt8 };

// One run. Places in the cache: the key of chat position p of table row r, for a kv head h, lies at
// [block_table[r, p / block_size], h, p % block_size].
struct AttentionRun {
  const float* qkv;                  // [tokens, (heads + 2 * kv_heads) * head_dim]
  const float *q_norm, *k_norm;      // [head_dim]
  const float *rope_cos, *rope_sin;  // [tokens, head_dim / 2]
  void *key_cache, *value_cache;     // [num_blocks, kv_heads, block_size, head_dim], written to
  float *key_scale, *value_scale;    // [num_blocks, kv_heads, block_size] for int8, else null; written to
  const int32_t* block_table;        // [rows, max_blocks]
  const int32_t* token_row;          // [tokens] its row of block_table
  const int32_t* token_slot;         // [tokens] the position its key and value are written to
  const int32_t* token_keys;         // [tokens] it sees positions [0, this)
  float* out;                        // [tokens, heads * head_dim]
  int64_t max_blocks;
  int heads, kv_heads, head_dim, block_size;
  CacheType cache;
  float epsilon, scale;
};

struct AttentionKernels {
  // Norm, rotary and quantization of one token's keys and values, into the cache.
  void (*append)(const AttentionRun& run, int64_t token);
  // Outputs of the query heads of `kv_head` for tokens [begin, end), at most attention_tile_tokens(run) of one chat.
  // `scratch` has attention_scratch_bytes(run).
  void (*attend)(const AttentionRun& run, int64_t begin, int64_t end, int kv_head, void* scratch);
};

int64_t attention_tile_tokens(const AttentionRun& run);
size_t attention_scratch_bytes(const AttentionRun& run);

}  // namespace edge
