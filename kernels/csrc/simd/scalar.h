// Sixteen lanes in plain C++, and the interface every other header of this folder gives for its instruction set:
//
//   F32, I32      sixteen float or int32 lanes
//   Bytes         64 unsigned bytes: four input values for each of sixteen output channels
//   Nibbles       64 packed bytes as 2 x 64 values 0..15: input values 0-3 (low) and 4-7 (high) of each channel
//   dot(s, w, x)  s[channel] += sum over j of w[channel][j] * x[j], exact in int32; x has 4 (Bytes) or 8 (Nibbles)
//   kInt8Zero     zero point of what `load_bytes` gives for stored int8 values (zero point 128): 128, or 0 where the
//                 instruction set multiplies signed bytes and `load_bytes` flips the sign bit
//   kBf16         whether Pairs, load_pairs, store_pairs, store_bf16 and dot_pairs exist (simd/avx512_bf16.h)
//   kAddsExponents  whether adding to exponents is better than multiplying, so that bits and from_bits exist
//   kTileRows x kTileGroups   tile of Linear (an integer and a float accumulator each) that fits the registers
//   kOnceRows     rows of a Linear that multiply all weights as one tile, as they are read once: kTileRows or more
//   kGridRows x kGridGroups   tile of attention (one accumulator each) that fits the registers
//   prefetch, prefetch_once   start reading a line into all cache levels; into the first one only, if read just once
//   load_first, store_first   the first n of sixteen lanes, zeros beyond; n may be larger than 16
//   fill_after    lanes from n on replaced by a constant
//
// Kernels are templates over such a struct, which CMakeLists.txt names EDGE_SIMD. Every lane sees the same operations
// in the same order whatever the tile around it is; with -ffp-contract=off that makes a row's result independent of the
// other rows of a run. Everything is in an anonymous namespace: code compiled for one instruction set must not be
// linked into another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace edge {
namespace {

struct Scalar {
  struct F32 {
    float lane[16];
  };
  struct I32 {
    int32_t lane[16];
  };
  struct Bytes {
    uint8_t value[64];
  };
  struct Nibbles {
    uint8_t low[64], high[64];
  };
  static constexpr int kTileRows = 2;
  static constexpr int kOnceRows = 2;
  static constexpr int kTileGroups = 1;
  static constexpr int kGridRows = 2;
  static constexpr int kGridGroups = 1;
  static constexpr int kInt8Zero = 128;
  static constexpr bool kBf16 = false;
  static constexpr bool kAddsExponents = false;

  template <class Fn>
  static F32 each(const Fn& fn) {
    F32 out;
    for (int i = 0; i < 16; ++i) out.lane[i] = fn(i);
    return out;
  }

  static F32 zero() { return splat(0.0f); }
  static F32 splat(float x) {
    return each([&](int) { return x; });
  }
  static F32 load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static void store(float* p, const F32& x) { std::memcpy(p, x.lane, sizeof(x.lane)); }
  static F32 load_first(const float* p, int n) {
    return each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void store_first(float* p, const F32& x, int n) { std::memcpy(p, x.lane, sizeof(float) * (n < 16 ? n : 16)); }
  static F32 add(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F32 sub(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F32 mul(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F32 div(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static F32 max(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F32 min(const F32& a, const F32& b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // Not fused: a processor without the instruction would need a library call for each lane.
  static F32 fma(const F32& a, const F32& b, const F32& c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F32 abs(const F32& a) {
    return each([&](int i) { return std::fabs(a.lane[i]); });
  }
  static F32 round(const F32& a) {
    return each([&](int i) { return nearest(a.lane[i]); });
  }
  static F32 scale_by_power(const F32& a, const F32& n) {
    return each([&](int i) { return a.lane[i] * power_of_two(n.lane[i]); });
  }
  static F32 fill_after(const F32& a, int n, float fill) {
    return each([&](int i) { return i < n ? a.lane[i] : fill; });
  }
  static float sum(const F32& a) {
    float total = 0;
    for (float x : a.lane) total += x;
    return total;
  }
  static float max_lane(const F32& a) {
    float best = a.lane[0];
    for (float x : a.lane) best = x > best ? x : best;
    return best;
  }

  static F32 load_f16(const uint16_t* p) {
    return each([&](int i) { return half_to_float(p[i]); });
  }
  static void store_f16(uint16_t* p, const F32& x) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_half(x.lane[i]);
  }
  static F32 load_i8(const int8_t* p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
  }
  static void store_i8(int8_t* p, const I32& x) {
    for (int i = 0; i < 16; ++i) {
      const int32_t v = x.lane[i];
      p[i] = static_cast<int8_t>(v < -128 ? -128 : v > 127 ? 127 : v);
    }
  }

  static I32 splat_i32(int32_t x) {
    I32 out;
    for (int32_t& lane : out.lane) lane = x;
    return out;
  }
  static I32 add_i32(I32 a, const I32& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static I32 to_i32(const F32& a) {
    I32 out;
    for (int i = 0; i < 16; ++i) {
      const float x = a.lane[i];
      out.lane[i] = x > -2e9f && x < 2e9f ? static_cast<int32_t>(nearest(x)) : INT32_MIN;
    }
    return out;
  }
  static F32 to_f32(const I32& a) {
    return each([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  static int32_t sum_i32(const I32& a) {
    int32_t total = 0;
    for (int32_t x : a.lane) total += x;
    return total;
  }

  static Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    std::memcpy(out.value, p, 64);
    return out;
  }
  static Nibbles load_nibbles(const uint8_t* p) {
    Nibbles out;
    for (int i = 0; i < 64; ++i) {
      out.low[i] = p[i] & 15;
      out.high[i] = p[i] >> 4;
    }
    return out;
  }
  static I32 dot(const I32& sum, const Bytes& w, const int8_t* x) { return dot4(sum, w.value, x); }
  static I32 dot(const I32& sum, const Nibbles& w, const int8_t* x) { return dot4(dot4(sum, w.low, x), w.high, x + 4); }
  static void transpose(const void* const* rows, size_t offset, void* out) {
    for (int w = 0; w < 16; ++w) {
      for (int r = 0; r < 16; ++r) {
        std::memcpy(static_cast<char*>(out) + (w * 16 + r) * 4, static_cast<const char*>(rows[r]) + offset + w * 4, 4);
      }
    }
  }
  static void prefetch(const void*) {}
  static void prefetch_once(const void*) {}

 private:
  static I32 dot4(I32 sum, const uint8_t* w, const int8_t* x) {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 4; ++j) sum.lane[i] += static_cast<int32_t>(w[4 * i + j]) * x[j];
    }
    return sum;
  }
  // Nearest integer, ties to even, for |x| < 2^22; larger ones have no use for it here.
  static float nearest(float x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
    return x > -4e6f && x < 4e6f ? (x + magic) - magic : std::nearbyintf(x);
  }
  // 2^n for a whole n; 0 below the smallest normal number.
  static float power_of_two(float n) {
    if (n < -126.0f) return 0.0f;
    const int32_t bits = (static_cast<int32_t>(n < 127.0f ? n : 127.0f) + 127) << 23;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
  }
  static float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t magnitude = half & 0x7fff;
    uint32_t bits;
    if (magnitude >= 0x7c00) {  // infinity or NaN
      bits = 0x7f800000 | (magnitude << 13);
    } else if (magnitude >= 0x0400) {  // normal: rebias the exponent from 15 to 127
      bits = (magnitude << 13) + (112u << 23);
    } else {  // subnormal: a whole multiple of 2^-24
      const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
      std::memcpy(&bits, &value, 4);
    }
    bits |= sign;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
  }
  static uint16_t float_to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;   // NaN
    if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
    if (bits < 0x38800000) {                       // below 2^-14: a subnormal, a whole multiple of 2^-24
      float magnitude;
      std::memcpy(&magnitude, &bits, 4);
      return sign | static_cast<uint16_t>(nearest(magnitude * 16777216.0f));
    }
    const uint32_t rounded = bits + 0x0fff + ((bits >> 13) & 1);  // ties to even
    return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
  }
};

}  // namespace
}  // namespace edge
