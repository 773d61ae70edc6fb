// AVX2 with AVX-VNNI: simd/avx2.h with a dot product of unsigned by signed bytes in one instruction.
#pragma once

#include "avx2.h"

namespace edge {
namespace {

struct Avx2Vnni : Avx2 {
  static constexpr int kInt8Zero = 128;

  static Bytes load_bytes(const uint8_t* p) { return {half(p), half(p + 32)}; }
  static I32 dot(I32 sum, const Bytes& w, const int8_t* x) {
    const __m256i v = four(x);
    return {multiply_add(sum.a, w.a, v), multiply_add(sum.b, w.b, v)};
  }
  static I32 dot(I32 sum, const Nibbles& w, const int8_t* x) {
    const __m256i low = four(x), high = four(x + 4);
    return {multiply_add(multiply_add(sum.a, w.low_a, low), w.high_a, high),
            multiply_add(multiply_add(sum.b, w.low_b, low), w.high_b, high)};
  }

 private:
  static __m256i multiply_add(__m256i sum, __m256i w, __m256i x) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, w, x);
#else  // the tests: the same operation in the encoding of AVX-512, for processors that have only that one
    return _mm256_dpbusd_epi32(sum, w, x);
#endif
  }
};

}  // namespace
}  // namespace edge
