// Sixteen lanes on AVX-512 with VNNI. One of several headers with the same interface (simd/scalar.h explains it).
// Everything is in an anonymous namespace: code compiled for one instruction set must not be linked into another.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace edge {
namespace {

struct Avx512Vnni {
  using F32 = __m512;
  using I32 = __m512i;
  using Bytes = __m512i;
  struct Nibbles {
    __m512i low, high;
  };
  static constexpr int kTileRows = 6;  // 6 rows x 2 groups: 12 integer and 12 float accumulators of 32 registers
  static constexpr int kTileGroups = 2;
  static constexpr int kOnceRows = 8;  // what is over goes to the stack, which costs less than a second pass
  static constexpr int kGridRows = 6;  // 6 rows x 4 groups: 24 accumulators
  static constexpr int kGridGroups = 4;
  static constexpr int kInt8Zero = 128;
  static constexpr bool kBf16 = false;
  static constexpr bool kAddsExponents = true;

  static F32 zero() { return _mm512_setzero_ps(); }
  static F32 splat(float x) { return _mm512_set1_ps(x); }
  static F32 load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
  static F32 load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
  static F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
  static F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
  static F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
  static F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
  static F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
  static F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
  static F32 abs(F32 a) { return _mm512_abs_ps(a); }
  static F32 round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F32 scale_by_power(F32 a, F32 n) { return _mm512_scalef_ps(a, n); }
  static F32 fill_after(F32 a, int n, float fill) { return _mm512_mask_mov_ps(_mm512_set1_ps(fill), first(n), a); }
  static float sum(F32 a) { return _mm512_reduce_add_ps(a); }
  static float max_lane(F32 a) { return _mm512_reduce_max_ps(a); }

  static F32 load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_f16(uint16_t* p, F32 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static F32 load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static void store_i8(int8_t* p, I32 x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x)); }

  static I32 splat_i32(int32_t x) { return _mm512_set1_epi32(x); }
  static I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
  static I32 to_i32(F32 a) { return _mm512_cvtps_epi32(a); }
  static F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
  static I32 bits(F32 a) { return _mm512_castps_si512(a); }
  static F32 from_bits(I32 a) { return _mm512_castsi512_ps(a); }
  static int32_t sum_i32(I32 a) { return _mm512_reduce_add_epi32(a); }

  static Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Nibbles load_nibbles(const uint8_t* p) {
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i packed = _mm512_loadu_si512(p);
    return {_mm512_and_si512(packed, mask), _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask)};
  }
  static I32 dot(I32 sum, Bytes w, const int8_t* x) { return multiply_add(sum, w, four(x)); }
  static I32 dot(I32 sum, const Nibbles& w, const int8_t* x) {
    return multiply_add(multiply_add(sum, w.low, four(x)), w.high, four(x + 4));
  }

  // out[i][r] = word i of row r, for the 64 bytes of sixteen rows that start at `offset`.
  static void transpose(const void* const* rows, size_t offset, void* out) {
    __m512 a[16], b[16];
    for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(static_cast<const char*>(rows[r]) + offset);
    for (int r = 0; r < 16; r += 2) {
      b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
      b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
    for (int r = 0; r < 16; r += 4) {  // now a[4i + j] has word 4l + j of rows 4i .. 4i + 3 in its quarter l
      a[r + 0] = unpack_low_pairs(b[r], b[r + 2]);
      a[r + 1] = unpack_high_pairs(b[r], b[r + 2]);
      a[r + 2] = unpack_low_pairs(b[r + 1], b[r + 3]);
      a[r + 3] = unpack_high_pairs(b[r + 1], b[r + 3]);
    }
    float* to = static_cast<float*>(out);
    for (int j = 0; j < 4; ++j) {
      const __m512 even_top = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
      const __m512 odd_top = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
      const __m512 even_bottom = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
      const __m512 odd_bottom = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
      _mm512_storeu_ps(to + (0 + j) * 16, _mm512_shuffle_f32x4(even_top, even_bottom, 0x88));
      _mm512_storeu_ps(to + (4 + j) * 16, _mm512_shuffle_f32x4(odd_top, odd_bottom, 0x88));
      _mm512_storeu_ps(to + (8 + j) * 16, _mm512_shuffle_f32x4(even_top, even_bottom, 0xdd));
      _mm512_storeu_ps(to + (12 + j) * 16, _mm512_shuffle_f32x4(odd_top, odd_bottom, 0xdd));
    }
  }
  // As assembly: GCC 12 takes a function that only prefetches for one without effect, and drops the calls of it.
  static void prefetch(const void* p) { asm volatile("prefetcht0 (%0)" : : "r"(p)); }
  static void prefetch_once(const void* p) { asm volatile("prefetchnta (%0)" : : "r"(p)); }

 private:
  // _mm512_dpbusd_epi32, as assembly: around the intrinsic GCC 12 copies every accumulator of a tile to another
  // register and to the stack at each step.
  static __m512i multiply_add(__m512i sum, __m512i w, __m512i x) {
#ifdef __AVX512VNNI__
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
#else  // the tests, emulated
    return _mm512_dpbusd_epi32(sum, w, x);
#endif
  }
  static __m512 unpack_low_pairs(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static __m512 unpack_high_pairs(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }
  static __m512i four(const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return _mm512_set1_epi32(bits);
  }
};

}  // namespace
}  // namespace edge
