// AVX-512 with VNNI and BF16: simd/avx512_vnni.h plus products of bfloat16 pairs.
#pragma once

#include "avx512_vnni.h"

namespace edge {
namespace {

struct Avx512Bf16 : Avx512Vnni {
  using Pairs = __m512bh;
  static constexpr bool kBf16 = true;

  static Pairs load_pairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  // a in the even, b in the odd places, rounded to nearest.
  static void store_pairs(uint16_t* p, F32 a, F32 b) {
    const __m512i even = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
    const __m512i odd = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
    _mm512_storeu_si512(p, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
  // The same for numbers that bfloat16 holds exactly: their upper halves.
  static void store_exact_pairs(uint16_t* p, F32 a, F32 b) {
    const __m512i even = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
    _mm512_storeu_si512(p, _mm512_mask_mov_epi16(even, 0xaaaaaaaa, _mm512_castps_si512(b)));
  }
  static void store_bf16(uint16_t* p, F32 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
  // acc[lane] + v[2 lane] * x[0] + v[2 lane + 1] * x[1]
  static F32 dot_pairs(F32 acc, Pairs v, const uint16_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return _mm512_dpbf16_ps(acc, v, (__m512bh)_mm512_set1_epi32(bits));
  }
};

}  // namespace
}  // namespace edge
