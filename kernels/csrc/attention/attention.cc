// edge.Attention: a ragged batch of tokens over a paged key-value cache. docs/kernels.md has the schema,
// edge_kernels/reference/attention.py the definition. This file checks the inputs and splits the work.
#include "attention.h"

#include <algorithm>
#include <cmath>

#include "op.h"
#include "ops.h"
#include "scratch.h"
#include "tile_memory.h"

namespace edge {

int64_t attention_tile_tokens(const AttentionRun& run) {
  return std::max(1, kTileQueryRows / (run.heads / run.kv_heads));
}

size_t attention_scratch_bytes(const AttentionRun& run) {
  const auto rows = attention_tile_tokens(run) * (run.heads / run.kv_heads);
  return tile_memory_bytes(static_cast<size_t>(rows), static_cast<size_t>(run.head_dim));
}

namespace {

enum Input {
  kQkv,
  kQNorm,
  kKNorm,
  kRopeCos,
  kRopeSin,
  kKeyCache,
  kValueCache,
  kBlockTable,
  kTokenRow,
  kTokenSlot,
  kTokenKeys,
  kKeyScale,
  kValueScale
};

// Tokens [begin, end) that are next to each other in the run and belong to the same chat.
struct TokenTile {
  int64_t begin, end;
};

CacheType cache_type(const Tensor& cache) {
  if (cache.type == ort::kFloat) return CacheType::kFloat32;
  if (cache.type == ort::kFloat16) return CacheType::kFloat16;
  if (cache.type == ort::kInt8) return CacheType::kInt8;
  throw Error(text("input '", cache.name, "' is ", cache.describe(), ", wanted float32, float16 or int8"));
}

class Attention : public Kernel {
 public:
  Attention(const Attributes& attributes, const KernelTable& table)
      : kernels_(*table.attention),
        heads_(attributes.integer("num_heads")),
        kv_heads_(attributes.integer("num_kv_heads")),
        epsilon_(attributes.number("epsilon")) {
    if (kv_heads_ < 1 || heads_ < kv_heads_ || heads_ % kv_heads_ != 0 || heads_ / kv_heads_ > kTileQueryRows) {
      throw Error(text("attributes num_heads and num_kv_heads are ", heads_, " and ", kv_heads_,
                       ", wanted the first to be 1 to ", kTileQueryRows, " times the second"));
    }
  }

  void compute(const Context& context) const override {
    AttentionRun run = {};
    const Tensor cos = context.input(kRopeCos);
    cos.expect(ort::kFloat, {kAny, kAny});
    const int64_t tokens = cos.dim(0), head_dim = 2 * cos.dim(1);
    if (head_dim < 8 || head_dim > kMaxHeadDim || head_dim % 8 != 0) {
      throw Error(text("input 'rope_cos' is ", cos.describe(), ", so head_dim is ", head_dim,
                       ", wanted a multiple of 8 of at most ", kMaxHeadDim));
    }
    run.head_dim = static_cast<int>(head_dim);
    run.heads = static_cast<int>(heads_);
    run.kv_heads = static_cast<int>(kv_heads_);
    run.epsilon = epsilon_;
    run.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    run.rope_cos = cos.as<float>();
    read_activations(context, tokens, run);
    const int64_t num_blocks = read_cache(context, run);
    read_table(context, tokens, num_blocks, run);
    run.out = context.output(0, {tokens, heads_ * head_dim});
    if (tokens == 0) return;

    context.parallel_for(static_cast<size_t>(tokens), [&](size_t t) { kernels_.append(run, static_cast<int64_t>(t)); });
    const std::vector<TokenTile> tiles = split(run, tokens);
    context.parallel_for(tiles.size() * static_cast<size_t>(kv_heads_), [&](size_t task) {
      // Last tiles first: they see the most keys, and the long work should not be left to the end.
      const TokenTile& tile = tiles[tiles.size() - 1 - task / static_cast<size_t>(kv_heads_)];
      Scratch<Attention> scratch(attention_scratch_bytes(run));
      kernels_.attend(run, tile.begin, tile.end, static_cast<int>(task % static_cast<size_t>(kv_heads_)),
                      scratch.take<uint8_t>(0));
    });
  }

 private:
  void read_activations(const Context& context, int64_t tokens, AttentionRun& run) const {
    const Tensor qkv = context.input(kQkv), sin = context.input(kRopeSin);
    const Tensor q_norm = context.input(kQNorm), k_norm = context.input(kKNorm);
    qkv.expect(ort::kFloat, {tokens, (heads_ + 2 * kv_heads_) * run.head_dim});
    sin.expect(ort::kFloat, {tokens, run.head_dim / 2});
    q_norm.expect(ort::kFloat, {run.head_dim});
    k_norm.expect(ort::kFloat, {run.head_dim});
    run.qkv = qkv.as<float>();
    run.rope_sin = sin.as<float>();
    run.q_norm = q_norm.as<float>();
    run.k_norm = k_norm.as<float>();
  }

  // The pools; returns how many blocks they have.
  int64_t read_cache(const Context& context, AttentionRun& run) const {
    const Tensor keys = context.input(kKeyCache), values = context.input(kValueCache);
    run.cache = cache_type(keys);
    keys.expect(keys.type, {kAny, kv_heads_, kAny, run.head_dim});
    const int64_t num_blocks = keys.dim(0), block_size = keys.dim(2);
    if (block_size < 1)
      throw Error(text("input 'key_cache' is ", keys.describe(), ", wanted blocks of at least 1 token"));
    values.expect(keys.type, {num_blocks, kv_heads_, block_size, run.head_dim});
    run.key_cache = keys.data;
    run.value_cache = values.data;
    run.block_size = static_cast<int>(block_size);
    const Tensor key_scale = context.input(kKeyScale), value_scale = context.input(kValueScale);
    if (run.cache == CacheType::kInt8) {
      key_scale.expect(ort::kFloat, {num_blocks, kv_heads_, block_size});
      value_scale.expect(ort::kFloat, {num_blocks, kv_heads_, block_size});
      run.key_scale = key_scale.as<float>();
      run.value_scale = value_scale.as<float>();
    } else if (key_scale || value_scale) {
      throw Error(
          text("inputs 'key_scale' and 'value_scale' are for an int8 cache, this one is ", type_name(keys.type)));
    }
    return num_blocks;
  }

  void read_table(const Context& context, int64_t tokens, int64_t num_blocks, AttentionRun& run) const {
    const Tensor table = context.input(kBlockTable), row = context.input(kTokenRow);
    const Tensor slot = context.input(kTokenSlot), keys = context.input(kTokenKeys);
    table.expect(ort::kInt32, {kAny, kAny});
    for (const Tensor* input : {&row, &slot, &keys}) input->expect(ort::kInt32, {tokens});
    run.block_table = table.as<int32_t>();
    run.max_blocks = table.dim(1);
    run.token_row = row.as<int32_t>();
    run.token_slot = slot.as<int32_t>();
    run.token_keys = keys.as<int32_t>();
    check_places(run, tokens, table.dim(0), num_blocks);
  }

  // Every place the kernels will read or write must exist: a wrong one would be another chat's memory, or nobody's.
  static void check_places(const AttentionRun& run, int64_t tokens, int64_t table_rows, int64_t num_blocks) {
    const int64_t capacity = run.max_blocks * run.block_size;
    std::vector<int64_t> used(static_cast<size_t>(table_rows), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = run.token_row[t], slot = run.token_slot[t], keys = run.token_keys[t];
      if (row < 0 || row >= table_rows) {
        throw Error(text("input 'token_row' is ", row, " for token ", t, ", wanted 0 to ", table_rows - 1));
      }
      if (slot < 0 || slot >= capacity) {
        throw Error(text("input 'token_slot' is ", slot, " for token ", t, ", wanted 0 to ", capacity - 1));
      }
      if (keys < 1 || keys > capacity) {
        throw Error(text("input 'token_keys' is ", keys, " for token ", t, ", wanted 1 to ", capacity));
      }
      used[static_cast<size_t>(row)] = std::max(used[static_cast<size_t>(row)], std::max(slot + 1, keys));
    }
    for (int64_t row = 0; row < table_rows; ++row) {
      for (int64_t i = 0; i * run.block_size < used[static_cast<size_t>(row)]; ++i) {
        const int32_t block = run.block_table[row * run.max_blocks + i];
        if (block >= 0 && block < num_blocks) continue;
        throw Error(text("input 'block_table' is ", block, " at [", row, ", ", i, "], wanted 0 to ", num_blocks - 1));
      }
    }
  }

  static std::vector<TokenTile> split(const AttentionRun& run, int64_t tokens) {
    std::vector<TokenTile> tiles;
    const int64_t most = attention_tile_tokens(run);
    for (int64_t begin = 0; begin < tokens;) {
      int64_t end = begin + 1;
      while (end < tokens && end - begin < most && run.token_row[end] == run.token_row[begin]) ++end;
      tiles.push_back({begin, end});
      begin = end;
    }
    return tiles;
  }

  const AttentionKernels& kernels_;
  const int64_t heads_, kv_heads_;
  const float epsilon_;
};

}  // namespace

const OpDefinition kAttentionOp = {
    "Attention",
    {{"qkv", ort::kFloat},
     {"q_norm", ort::kFloat},
     {"k_norm", ort::kFloat},
     {"rope_cos", ort::kFloat},
     {"rope_sin", ort::kFloat},
     {"key_cache", ort::kUndefined},
     {"value_cache", ort::kUndefined},
     {"block_table", ort::kInt32},
     {"token_row", ort::kInt32},
     {"token_slot", ort::kInt32},
     {"token_keys", ort::kInt32},
     {"key_scale", ort::kFloat, true},
     {"value_scale", ort::kFloat, true}},
    {{"y", ort::kFloat}},
    [](const Attributes& attributes, const KernelTable& table) -> std::unique_ptr<Kernel> {
      return std::make_unique<Attention>(attributes, table);
    },
};

}  // namespace edge
