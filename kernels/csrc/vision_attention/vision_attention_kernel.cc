// VisionAttention for any instruction set of simd/: int8 query-key products; values in bfloat16 or float32.
#include EDGE_SIMD_HEADER

#include "attention/head.h"
#include "attention/tile_memory.h"
#include "old_maximum.h"
#include "vision_attention.h"

namespace edge {
namespace {

template <class S, bool kBf16>
struct VisionValues {
  using Values = FloatValues<S>;
  using Element = float;
  // Writes columns [d, d + 16) of two neighbouring patches.
  static void store(float* out, int width, int d, typename S::F32 a, typename S::F32 b) {
    S::store(out + d, a);
    S::store(out + width + d, b);
  }
};
template <class S>
struct VisionValues<S, true> {
  using Values = Bf16Values<S>;
  using Element = uint16_t;
  static void store(uint16_t* out, int, int d, typename S::F32 a, typename S::F32 b) {
    S::store_pairs(out + 2 * d, a, b);
  }
};

// The head of a patch's queries (part 0), keys (1) or values (2).
inline const float* head_of(const VisionAttentionRun& run, int64_t patch, int part, int head) {
  return run.qkv + ((patch * 3 + part) * run.heads + head) * run.head_dim;
}

// Starts reading it for a patch some way ahead: a head's patches lie far apart, each in another page of memory.
template <class S>
void prefetch_head(const VisionAttentionRun& run, int64_t patch, int part, int head) {
  constexpr int64_t kPatchesAhead = 6;
  if (patch + kPatchesAhead >= run.patches) return;
  const float* ahead = head_of(run, patch + kPatchesAhead, part, head);
  for (int d = 0; d < run.head_dim; d += 16) S::prefetch(ahead + d);
}

// The rotated query or key of a patch.
template <class S>
void rotated_head(const VisionAttentionRun& run, int64_t patch, int part, int head, float* out) {
  const float* in = head_of(run, patch, part, head);
  prefetch_head<S>(run, patch, part, head);
  const int64_t angle = patch * (run.head_dim / 2);
  rotate<S>(in, run.rope_cos + angle, run.rope_sin + angle, run.head_dim, out);
}

template <class S>
void vision_pack(const VisionAttentionRun& run, int head, int64_t begin, const VisionHead& packed) {
  using V = VisionValues<S, S::kBf16>;
  alignas(64) static const float zeros[kMaxHeadDim] = {};
  const int width = (run.head_dim + 15) / 16 * 16;
  auto* values = static_cast<typename V::Element*>(packed.values);
  for (int64_t first = begin; first < begin + kKeyTile; first += 16) {
    alignas(64) int8_t quantized[16][kMaxHeadDim] = {};
    const void* rows[16];
    for (int i = 0; i < 16; ++i) {
      rows[i] = quantized[i];
      packed.key_scales[first + i] = 0;
      if (first + i >= run.patches) continue;
      alignas(64) float key[kMaxHeadDim];
      rotated_head<S>(run, first + i, 1, head, key);
      packed.key_scales[first + i] = quantize_head<S>(key, run.head_dim, quantized[i]).scale;
    }
    pack_int8_keys<S>(rows, run.head_dim, packed.keys + first * run.head_dim);
    for (int64_t patch = first; patch < first + 16; patch += 2) {
      prefetch_head<S>(run, patch, 2, head);
      prefetch_head<S>(run, patch + 1, 2, head);
      const float* a = patch < run.patches ? head_of(run, patch, 2, head) : zeros;
      const float* b = patch + 1 < run.patches ? head_of(run, patch + 1, 2, head) : zeros;
      for (int d = 0; d < run.head_dim; d += 16) {
        const int left = run.head_dim - d;
        V::store(values + patch * width, width, d, S::load_first(a + d, left), S::load_first(b + d, left));
      }
    }
  }
}

// Query rows [begin, end). With kExact every tile of keys renews the maximum; without, only the first and one that is
// not whole do, and rows for which that does not do are computed again.
template <class S, bool kExact>
void attend_rows(const VisionAttentionRun& run, int head, int64_t begin, int64_t end, const VisionHead& packed,
                 void* scratch) {
  using V = VisionValues<S, S::kBf16>;
  TilePieces memory{static_cast<uint8_t*>(scratch)};
  const size_t rows = static_cast<size_t>(end - begin);
  auto* q = memory.take<int8_t>(rows * static_cast<size_t>(run.head_dim));
  auto* factor = memory.take<float>(rows);
  auto* start = memory.take<int32_t>(rows);
  for (int64_t patch = begin; patch < end; ++patch) {
    alignas(64) float query[kMaxHeadDim];
    rotated_head<S>(run, patch, 0, head, query);
    const Int8Scale scale = quantize_head<S>(query, run.head_dim, q + (patch - begin) * run.head_dim);
    factor[patch - begin] = scale.scale * run.scale * kLog2E;
    start[patch - begin] = -S::kInt8Zero * scale.sum;
  }
  const int width = (run.head_dim + 15) / 16 * 16;
  const FlashState state = flash_state(memory, static_cast<int>(rows), width);
  int* seen = memory.take<int>(rows);
  flash_begin<S>(state);
  for (int64_t key = 0; key < run.patches; key += kKeyTile) {
    const int count = static_cast<int>(run.patches - key < kKeyTile ? run.patches - key : kKeyTile);
    const Int8Keys<S> keys{q, factor, start, packed.keys + key * run.head_dim, packed.key_scales + key, run.head_dim};
    const typename V::Values values{static_cast<const typename V::Element*>(packed.values) + key * width, width};
    if (kExact || key == 0 || count < kKeyTile) {
      for (size_t r = 0; r < rows; ++r) seen[r] = count;
      flash_step<S>(state, keys, values, nullptr, seen, (count + 15) / 16 * 16);
      for (size_t r = 0; r < rows; ++r) state.rescale[r] = 1.0f;
    } else {
      flash_step_with_old_maximum<S>(state, keys, values);
    }
  }
  static_assert(kTileQueryRows <= 64, "a bit for each row");
  uint64_t again = 0;
  for (int64_t patch = begin; patch < end; ++patch) {
    const int r = static_cast<int>(patch - begin);
    if (!kExact && exceeds_range<S>(state, r)) again |= uint64_t{1} << r;
    flash_end<S>(state, r, run.head_dim, run.out + ((patch - run.first_query) * run.heads + head) * run.head_dim);
  }
  if constexpr (!kExact) {
    for (int64_t patch = begin; patch < end; ++patch) {
      if (again >> (patch - begin) & 1) attend_rows<S, true>(run, head, patch, patch + 1, packed, scratch);
    }
  }
}

template <class S>
void vision_attend(const VisionAttentionRun& run, int head, int64_t begin, int64_t end, const VisionHead& packed,
                   void* scratch) {
  attend_rows<S, false>(run, head, begin, end, packed, scratch);
}

}  // namespace

namespace EDGE_ISA {
extern constexpr VisionAttentionKernels vision_attention = {sizeof(VisionValues<EDGE_SIMD, EDGE_SIMD::kBf16>::Element),
                                                            vision_pack<EDGE_SIMD>, vision_attend<EDGE_SIMD>};
}

}  // namespace edge
