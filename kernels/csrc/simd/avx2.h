// Sixteen lanes as two registers of AVX2. One of several headers with the same interface (simd/scalar.h explains it).
// With AVX-VNNI (simd/avx2_vnni.h) only the dot product differs.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace edge {
namespace {

struct Avx2 {
  struct F32 {
    __m256 a, b;
  };
  struct I32 {
    __m256i a, b;
  };
  struct Bytes {
    __m256i a, b;
  };
  struct Nibbles {
    __m256i low_a, low_b, high_a, high_b;
  };
  static constexpr int kTileRows = 4;  // 16 registers: the float accumulators live in the first cache level
  static constexpr int kTileGroups = 1;
  static constexpr int kOnceRows = 4;
  static constexpr int kGridRows = 6;
  static constexpr int kGridGroups = 1;
  static constexpr int kInt8Zero = 0;
  static constexpr bool kBf16 = false;
  static constexpr bool kAddsExponents = false;

  static F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F32 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static F32 load_first(const float* p, int n) {
    if (n >= 16) return load(p);
    return {_mm256_maskload_ps(p, first(n)), n > 8 ? _mm256_maskload_ps(p + 8, first(n - 8)) : _mm256_setzero_ps()};
  }
  static void store_first(float* p, F32 x, int n) {
    if (n >= 16) return store(p, x);
    _mm256_maskstore_ps(p, first(n), x.a);
    if (n > 8) _mm256_maskstore_ps(p + 8, first(n - 8), x.b);
  }
  static F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F32 fma(F32 x, F32 y, F32 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F32 abs(F32 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static F32 round(F32 x) { return {nearest(x.a), nearest(x.b)}; }
  static F32 scale_by_power(F32 x, F32 n) { return mul(x, {power_of_two(n.a), power_of_two(n.b)}); }
  static F32 fill_after(F32 x, int n, float fill) {
    const __m256 f = _mm256_set1_ps(fill);
    return {_mm256_blendv_ps(f, x.a, _mm256_castsi256_ps(first(n))),
            _mm256_blendv_ps(f, x.b, _mm256_castsi256_ps(first(n - 8)))};
  }
  static float sum(F32 x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float max_lane(F32 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  static F32 load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void store_f16(uint16_t* p, F32 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
  }
  static F32 load_i8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  static void store_i8(int8_t* p, I32 x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static I32 splat_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I32 add_i32(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I32 to_i32(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static F32 to_f32(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static int32_t sum_i32(I32 x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
  }

  static Bytes load_bytes(const uint8_t* p) {
    const __m256i flip = _mm256_set1_epi8(-128);
    return {_mm256_xor_si256(half(p), flip), _mm256_xor_si256(half(p + 32), flip)};
  }
  static Nibbles load_nibbles(const uint8_t* p) {
    const __m256i mask = _mm256_set1_epi8(15), a = half(p), b = half(p + 32);
    return {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask), _mm256_and_si256(_mm256_srli_epi16(a, 4), mask),
            _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
  }
  static I32 dot(I32 sum, const Bytes& w, const int8_t* x) {
    const __m256i v = four(x);
    return {_mm256_add_epi32(sum.a, widen(signed_pairs(w.a, v))), _mm256_add_epi32(sum.b, widen(signed_pairs(w.b, v)))};
  }
  // Four products of 15 x 127 fit in 16 bits, so low and high nibbles are added before they are widened.
  static I32 dot(I32 sum, const Nibbles& w, const int8_t* x) {
    const __m256i low = four(x), high = four(x + 4);
    const __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w.low_a, low), _mm256_maddubs_epi16(w.high_a, high));
    const __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w.low_b, low), _mm256_maddubs_epi16(w.high_b, high));
    return {_mm256_add_epi32(sum.a, widen(a)), _mm256_add_epi32(sum.b, widen(b))};
  }

  // out[i][r] = word i of row r, for the 64 bytes of sixteen rows that start at `offset`.
  static void transpose(const void* const* rows, size_t offset, void* out) {
    for (int r = 0; r < 16; r += 8) {
      for (int w = 0; w < 16; w += 8)
        transpose8(rows + r, offset + static_cast<size_t>(w) * 4, static_cast<float*>(out) + w * 16 + r);
    }
  }
  // As assembly: GCC 12 takes a function that only prefetches for one without effect, and drops the calls of it.
  static void prefetch(const void* p) { asm volatile("prefetcht0 (%0)" : : "r"(p)); }
  static void prefetch_once(const void* p) { asm volatile("prefetchnta (%0)" : : "r"(p)); }

 protected:
  static __m256i half(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static __m256i four(const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return _mm256_set1_epi32(bits);
  }

 private:
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 nearest(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n for a whole n; 0 below the smallest normal number.
  static __m256 power_of_two(__m256 n) {
    const __m256 in_range = _mm256_cmp_ps(n, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)), in_range);
  }
  // Sums of two products of signed bytes. |w| x (x with w's sign) cannot overflow, as the largest sum is 2 x 128 x 127.
  static __m256i signed_pairs(__m256i w, __m256i x) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  }
  static __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  static void transpose8(const void* const* rows, size_t offset, float* out) {
    __m256 a[8], b[8];
    for (int r = 0; r < 8; ++r)
      a[r] = _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(rows[r]) + offset));
    for (int r = 0; r < 8; r += 2) {
      b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
      b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
    for (int r = 0; r < 8; r += 4) {  // now a[4i + j] has word 4l + j of rows 4i .. 4i + 3 in its half l
      a[r + 0] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
      a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
      a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
      a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
      _mm256_storeu_ps(out + j * 16, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
      _mm256_storeu_ps(out + (4 + j) * 16, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
    }
  }
};

}  // namespace
}  // namespace edge
