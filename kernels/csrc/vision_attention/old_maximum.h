// A step of attention that measures scores against a maximum found earlier (docs/decisions/0034), for tiles of keys
// that every row sees whole. flash.h has the ordinary step.
#pragma once

#include "attention/flash.h"

namespace edge {
namespace {

// Probabilities straight from the registers that hold the scores, measured against the maximum known before the tile.
template <class S, class Keys, class Values>
struct ProbabilityGrid {
  const Keys& keys;
  const FlashState& state;

  // 2^x as precisely as it is stored.
  static typename S::F32 power(typename S::F32 x) {
    if constexpr (S::kBf16) return exp2_roughly<S>(x);
    return exp2<S>(x);
  }
  template <int kRows, int kGroups>
  void run(int row, int group) const {
    keys.template each_row<kRows, kGroups>(row, group, [&](int r, const typename S::F32(&product)[kGroups]) {
      auto* out = static_cast<typename Values::Probability*>(state.probability) + r * kKeyTile + group * 16;
      const auto factor = S::splat(keys.q_factor[r]), minus_maximum = S::splat(-state.maximum[r]);
      auto sum = S::load(state.sum + r * 16);
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        const auto score = S::mul(product[g], S::load(keys.k_scale + (group + g) * 16));
        const auto p = power(S::fma(score, factor, minus_maximum));
        sum = S::add(sum, p);
        Values::store(out + g * 16, p);
      }
      S::store(state.sum + r * 16, sum);
    });
  }
};

// One whole tile of keys that every row sees, without a new maximum: scores are neither stored nor searched, which is a
// quarter of a step's time. Floats have the same precision at any size, so an old maximum will do until probabilities
// overflow: `exceeds_range` tells. state.rescale must be 1.
template <class S, class Keys, class Values>
void flash_step_with_old_maximum(const FlashState& state, const Keys& keys_tile, const Values& values) {
  for_grid<S>(state.rows, kKeyTile / 16, ProbabilityGrid<S, Keys, Values>{keys_tile, state});
  for_grid<S>(state.rows, state.width / 16, ValueGrid<S, Values>{values, state, kKeyTile});
}

// Whether a row's sum is so large, or not a number, that its result may be wrong: some score was far over the maximum
// it was measured against.
template <class S>
bool exceeds_range(const FlashState& state, int row) {
  return !(S::sum(S::load(state.sum + row * 16)) < 0x1p90f);  // a maximum could lose a NaN, a sum cannot
}

}  // namespace
}  // namespace edge
