// AVX-512 in plain C++, for processors that lack it: found before the compiler's own header where
// -DEDGE_EMULATED_AVX512=ON builds the kernels' tests. SIMDe (Debian's libsimde-dev) has most intrinsics; those its
// version 0.7.4 lacks follow, lane by lane as Intel's intrinsics guide defines them.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {
namespace emulated {

template <class To, class From>
To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bytes, seen as another vector");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
struct Floats {
  float lane[16];
};
struct Ints {
  int32_t lane[16];
};

inline simde__m512 maskz_loadu_ps(uint16_t mask, const float* p) {
  Floats out{};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) out.lane[i] = p[i];
  return bits<simde__m512>(out);
}
inline void mask_storeu_ps(float* p, uint16_t mask, simde__m512 a) {
  const Floats from = bits<Floats>(a);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) p[i] = from.lane[i];
}
// Halves added to halves, as compilers do it.
inline float reduce_add_ps(simde__m512 a) {
  Floats sums = bits<Floats>(a);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums.lane[i] += sums.lane[i + half];
  return sums.lane[0];
}
inline float reduce_max_ps(simde__m512 a) {
  const Floats from = bits<Floats>(a);
  float largest = from.lane[0];
  for (float x : from.lane) largest = x > largest ? x : largest;
  return largest;
}
inline int32_t reduce_add_epi32(simde__m512i a) {
  const Ints from = bits<Ints>(a);
  uint32_t sum = 0;
  for (int32_t x : from.lane) sum += static_cast<uint32_t>(x);
  return static_cast<int32_t>(sum);
}
inline simde__m512i cvtps_epi32(simde__m512 a) {  // to nearest, ties to even: the rounding mode nobody changes
  const Floats from = bits<Floats>(a);
  Ints out;
  for (int i = 0; i < 16; ++i) {
    const float whole = std::nearbyint(from.lane[i]);
    out.lane[i] = whole >= -2147483648.0f && whole < 2147483648.0f ? static_cast<int32_t>(whole) : INT32_MIN;
  }
  return bits<simde__m512i>(out);
}
inline simde__m512 cvtepi32_ps(simde__m512i a) {
  const Ints from = bits<Ints>(a);
  Floats out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<float>(from.lane[i]);
  return bits<simde__m512>(out);
}
inline simde__m512i cvtepi8_epi32(simde__m128i a) {
  int8_t from[16];
  std::memcpy(from, &a, sizeof from);
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = from[i];
  return bits<simde__m512i>(out);
}
inline simde__m512i cvtepu16_epi32(simde__m256i a) {
  uint16_t from[16];
  std::memcpy(from, &a, sizeof from);
  Ints out;
  for (int i = 0; i < 16; ++i) out.lane[i] = from[i];
  return bits<simde__m512i>(out);
}
inline simde__m512 cvtph_ps(simde__m256i a) {
  simde__m128i half[2];
  std::memcpy(half, &a, sizeof half);
  const simde__m256 out[2] = {simde_mm256_cvtph_ps(half[0]), simde_mm256_cvtph_ps(half[1])};
  simde__m512 both;
  std::memcpy(&both, out, sizeof both);
  return both;
}
inline simde__m256i cvtps_ph(simde__m512 a) {
  simde__m256 half[2];
  std::memcpy(half, &a, sizeof half);
  const simde__m128i out[2] = {simde_mm256_cvtps_ph(half[0], SIMDE_MM_FROUND_TO_NEAREST_INT),
                               simde_mm256_cvtps_ph(half[1], SIMDE_MM_FROUND_TO_NEAREST_INT)};
  simde__m256i both;
  std::memcpy(&both, out, sizeof both);
  return both;
}
inline simde__m256bh cvtneps_pbh(simde__m512 a) {  // to nearest, ties to even; a number, not a NaN
  const Ints from = bits<Ints>(a);
  uint16_t out[16];
  for (int i = 0; i < 16; ++i) {
    const uint32_t x = static_cast<uint32_t>(from.lane[i]);
    out[i] = static_cast<uint16_t>((x + 0x7fff + (x >> 16 & 1)) >> 16);
  }
  return bits<simde__m256bh>(out);
}
template <int choice>
simde__m512 shuffle_f32x4(simde__m512 a, simde__m512 b) {
  const Floats from[2] = {bits<Floats>(a), bits<Floats>(b)};
  Floats out;
  for (int quarter = 0; quarter < 4; ++quarter)
    std::memcpy(out.lane + 4 * quarter, from[quarter / 2].lane + 4 * (choice >> 2 * quarter & 3), 16);
  return bits<simde__m512>(out);
}

}  // namespace emulated
}  // namespace

using __mmask16 = simde__mmask16;
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif
#define _mm512_maskz_loadu_ps(mask, p) emulated::maskz_loadu_ps(mask, p)
#define _mm512_mask_storeu_ps(p, mask, a) emulated::mask_storeu_ps(p, mask, a)
#define _mm512_reduce_add_ps(a) emulated::reduce_add_ps(a)
#define _mm512_reduce_max_ps(a) emulated::reduce_max_ps(a)
#define _mm512_reduce_add_epi32(a) emulated::reduce_add_epi32(a)
#define _mm512_cvtps_epi32(a) emulated::cvtps_epi32(a)
#define _mm512_cvtepi32_ps(a) emulated::cvtepi32_ps(a)
#define _mm512_cvtepi8_epi32(a) emulated::cvtepi8_epi32(a)
#define _mm512_cvtepu16_epi32(a) emulated::cvtepu16_epi32(a)
#define _mm512_cvtph_ps(a) emulated::cvtph_ps(a)
#define _mm512_cvtps_ph(a, rounding) emulated::cvtps_ph(a)
#define _mm512_cvtneps_pbh(a) emulated::cvtneps_pbh(a)
#define _mm512_shuffle_f32x4(a, b, choice) emulated::shuffle_f32x4<choice>(a, b)
