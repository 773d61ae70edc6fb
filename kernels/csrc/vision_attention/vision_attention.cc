// edge.VisionAttention: attention of some or all patches of one frame over all of them. docs/kernels.md has the schema,
// edge_kernels/reference/vision_attention.py the definition. One head at a time, so that packed keys and values stay
// small: 200 bytes a patch, whatever the number of heads.
#include "vision_attention.h"

#include <algorithm>
#include <cmath>

#include "attention/tile_memory.h"
#include "op.h"
#include "ops.h"
#include "scratch.h"

namespace edge {
namespace {

class VisionAttention : public Kernel {
 public:
  VisionAttention(const Attributes& attributes, const KernelTable& table)
      : kernels_(*table.vision_attention), heads_(attributes.integer("num_heads")) {
    if (heads_ < 1) throw Error(text("attribute 'num_heads' is ", heads_, ", wanted at least 1"));
  }

  void compute(const Context& context) const override {
    const Tensor qkv = context.input(0), cos = context.input(1), sin = context.input(2);
    cos.expect(ort::kFloat, {kAny, kAny});
    const int64_t patches = cos.dim(0), head_dim = 2 * cos.dim(1);
    if (head_dim < 8 || head_dim > kMaxHeadDim || head_dim % 8 != 0) {
      throw Error(text("input 'rope_cos' is ", cos.describe(), ", so head_dim is ", head_dim,
                       ", wanted a multiple of 8 of at most ", kMaxHeadDim));
    }
    sin.expect(ort::kFloat, {patches, head_dim / 2});
    qkv.expect(ort::kFloat, {patches, 3 * heads_ * head_dim});
    VisionAttentionRun run = {};
    run.qkv = qkv.as<float>();
    run.rope_cos = cos.as<float>();
    run.rope_sin = sin.as<float>();
    run.patches = patches;
    set_queries(context.input(3), run);
    run.out = context.output(0, {run.queries, heads_ * head_dim});
    run.heads = static_cast<int>(heads_);
    run.head_dim = static_cast<int>(head_dim);
    run.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    if (run.queries > 0) attend(context, run);
  }

 private:
  struct HeadMemory {};  // scratch tags: the packed head belongs to the calling thread, tiles to every thread
  struct TileMemory {};

  static void set_queries(const Tensor& query_rows, VisionAttentionRun& run) {
    run.queries = run.patches;
    if (!query_rows) return;
    query_rows.expect(ort::kInt64, {2});
    const int64_t begin = query_rows.as<int64_t>()[0], end = query_rows.as<int64_t>()[1];
    if (begin < 0 || begin > end || end > run.patches) {
      throw Error(
          text("input 'query_rows' is [", begin, ", ", end, "], wanted a range within ", run.patches, " patches"));
    }
    run.first_query = begin;
    run.queries = end - begin;
  }

  void attend(const Context& context, const VisionAttentionRun& run) const {
    const size_t head_dim = static_cast<size_t>(run.head_dim), width = (head_dim + 15) / 16 * 16;
    const size_t key_tiles = (static_cast<size_t>(run.patches) + kTileKeys - 1) / kTileKeys;
    const size_t query_tiles = (static_cast<size_t>(run.queries) + kTileQueryRows - 1) / kTileQueryRows;
    const int64_t queries_end = run.first_query + run.queries;
    const size_t padded = key_tiles * kTileKeys;
    Scratch<HeadMemory> memory(padded * (head_dim + sizeof(float) + width * kernels_.value_bytes) + 256);
    VisionHead packed;
    packed.keys = memory.take<uint8_t>(padded * head_dim);
    packed.key_scales = memory.take<float>(padded);
    packed.values = memory.take<uint8_t>(padded * width * kernels_.value_bytes);
    for (int head = 0; head < run.heads; ++head) {
      context.parallel_for(
          key_tiles, [&](size_t tile) { kernels_.pack(run, head, static_cast<int64_t>(tile) * kTileKeys, packed); });
      context.parallel_for(query_tiles, [&](size_t tile) {
        Scratch<TileMemory> scratch(tile_memory_bytes(kTileQueryRows, head_dim));
        const int64_t begin = run.first_query + static_cast<int64_t>(tile) * kTileQueryRows;
        kernels_.attend(run, head, begin, std::min(queries_end, begin + kTileQueryRows), packed,
                        scratch.take<uint8_t>(0));
      });
    }
  }

  const VisionAttentionKernels& kernels_;
  const int64_t heads_;
};

}  // namespace

const OpDefinition kVisionAttentionOp = {
    "VisionAttention",
    {{"qkv", ort::kFloat}, {"rope_cos", ort::kFloat}, {"rope_sin", ort::kFloat}, {"query_rows", ort::kInt64, true}},
    {{"y", ort::kFloat}},
    [](const Attributes& attributes, const KernelTable& table) -> std::unique_ptr<Kernel> {
      return std::make_unique<VisionAttention>(attributes, table);
    },
};

}  // namespace edge
