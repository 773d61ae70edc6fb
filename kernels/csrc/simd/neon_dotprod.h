// Sixteen lanes as four registers of NEON with the dot-product instructions. One of several headers with the same
// interface (simd/scalar.h explains it).
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace edge {
namespace {

struct NeonDotprod {
  struct F32 {
    float32x4_t v[4];
  };
  struct I32 {
    int32x4_t v[4];
  };
  struct Bytes {
    int8x16_t v[4];
  };
  struct Nibbles {
    int8x16_t low[4], high[4];
  };
  static constexpr int kTileRows = 4;  // 16 of 32 registers; the float accumulators live in the first cache level
  static constexpr int kTileGroups = 1;
  static constexpr int kOnceRows = 4;
  static constexpr int kGridRows = 6;
  static constexpr int kGridGroups = 1;
  static constexpr int kInt8Zero = 0;
  static constexpr bool kBf16 = false;
  static constexpr bool kAddsExponents = false;

  template <class Fn>
  static F32 each(const Fn& fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }
  template <class Fn>
  static I32 each_i32(const Fn& fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }

  static F32 zero() { return splat(0.0f); }
  static F32 splat(float x) {
    return each([&](int) { return vdupq_n_f32(x); });
  }
  static F32 load(const float* p) {
    return each([&](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store(float* p, const F32& x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
  }
  static F32 load_first(const float* p, int n) {
    if (n >= 16) return load(p);
    float lanes[16] = {};
    if (n > 0) std::memcpy(lanes, p, sizeof(float) * static_cast<size_t>(n));
    return load(lanes);
  }
  static void store_first(float* p, const F32& x, int n) {
    if (n >= 16) return store(p, x);
    float lanes[16];
    store(lanes, x);
    if (n > 0) std::memcpy(p, lanes, sizeof(float) * static_cast<size_t>(n));
  }
  static F32 add(const F32& a, const F32& b) {
    return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
  }
  static F32 sub(const F32& a, const F32& b) {
    return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
  }
  static F32 mul(const F32& a, const F32& b) {
    return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
  }
  static F32 div(const F32& a, const F32& b) {
    return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
  }
  static F32 max(const F32& a, const F32& b) {
    return each([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); });
  }
  static F32 min(const F32& a, const F32& b) {
    return each([&](int i) { return vminq_f32(a.v[i], b.v[i]); });
  }
  static F32 fma(const F32& a, const F32& b, const F32& c) {
    return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static F32 abs(const F32& a) {
    return each([&](int i) { return vabsq_f32(a.v[i]); });
  }
  static F32 round(const F32& a) {
    return each([&](int i) { return vrndnq_f32(a.v[i]); });
  }
  // a * 2^n for a whole n; 0 below the smallest normal power.
  static F32 scale_by_power(const F32& a, const F32& n) {
    return each([&](int i) {
      const uint32x4_t in_range = vcgeq_f32(n.v[i], vdupq_n_f32(-126.0f));
      const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23);
      const uint32x4_t power = vandq_u32(vreinterpretq_u32_s32(exponent), in_range);
      return vmulq_f32(a.v[i], vreinterpretq_f32_u32(power));
    });
  }
  static F32 fill_after(const F32& a, int n, float fill) {
    const int32_t first_lanes[4] = {0, 1, 2, 3};
    const int32x4_t lane = vld1q_s32(first_lanes);
    return each([&](int i) {
      return vbslq_f32(vcltq_s32(vaddq_s32(lane, vdupq_n_s32(4 * i)), vdupq_n_s32(n)), a.v[i], vdupq_n_f32(fill));
    });
  }
  static float sum(const F32& a) { return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3]))); }
  static float max_lane(const F32& a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
  }

  static F32 load_f16(const uint16_t* p) {
    return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static void store_f16(uint16_t* p, const F32& x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
  }
  static F32 load_i8(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
  }
  static void store_i8(int8_t* p, const I32& x) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
  }

  static I32 splat_i32(int32_t x) {
    return each_i32([&](int) { return vdupq_n_s32(x); });
  }
  static I32 add_i32(const I32& a, const I32& b) {
    return each_i32([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
  }
  static I32 to_i32(const F32& a) {
    return each_i32([&](int i) { return vcvtnq_s32_f32(a.v[i]); });
  }
  static F32 to_f32(const I32& a) {
    return each([&](int i) { return vcvtq_f32_s32(a.v[i]); });
  }
  static int32_t sum_i32(const I32& a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
  }

  static Bytes load_bytes(const uint8_t* p) {
    const uint8x16_t flip = vdupq_n_u8(0x80);
    Bytes out;
    for (int i = 0; i < 4; ++i) out.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), flip));
    return out;
  }
  static Nibbles load_nibbles(const uint8_t* p) {
    Nibbles out;
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t packed = vld1q_u8(p + 16 * i);
      out.low[i] = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
      out.high[i] = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
    }
    return out;
  }
  static I32 dot(const I32& sum, const Bytes& w, const int8_t* x) {
    const int8x16_t v = four(x);
    return each_i32([&](int i) { return vdotq_s32(sum.v[i], w.v[i], v); });
  }
  static I32 dot(const I32& sum, const Nibbles& w, const int8_t* x) {
    const int8x16_t low = four(x), high = four(x + 4);
    return each_i32([&](int i) { return vdotq_s32(vdotq_s32(sum.v[i], w.low[i], low), w.high[i], high); });
  }

  // out[i][r] = word i of row r, for the 64 bytes of sixteen rows that start at `offset`.
  static void transpose(const void* const* rows, size_t offset, void* out) {
    for (int r = 0; r < 16; r += 4) {
      for (int w = 0; w < 16; w += 4) {
        uint32x4_t a[4];
        for (int i = 0; i < 4; ++i) {
          const uint8_t* row = static_cast<const uint8_t*>(rows[r + i]) + offset;
          a[i] = vreinterpretq_u32_u8(vld1q_u8(row + 4 * w));
        }
        const uint32x4x2_t top = vtrnq_u32(a[0], a[1]), bottom = vtrnq_u32(a[2], a[3]);
        uint32_t* to = static_cast<uint32_t*>(out) + w * 16 + r;
        vst1q_u32(to, vcombine_u32(vget_low_u32(top.val[0]), vget_low_u32(bottom.val[0])));
        vst1q_u32(to + 16, vcombine_u32(vget_low_u32(top.val[1]), vget_low_u32(bottom.val[1])));
        vst1q_u32(to + 32, vcombine_u32(vget_high_u32(top.val[0]), vget_high_u32(bottom.val[0])));
        vst1q_u32(to + 48, vcombine_u32(vget_high_u32(top.val[1]), vget_high_u32(bottom.val[1])));
      }
    }
  }
  // As assembly: GCC 12 takes a function that only prefetches for one without effect, and drops the calls of it.
  static void prefetch(const void* p) { asm volatile("prfm pldl1keep, [%0]" : : "r"(p)); }
  static void prefetch_once(const void* p) { asm volatile("prfm pldl1strm, [%0]" : : "r"(p)); }

 private:
  static int8x16_t four(const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(bits));
  }
};

}  // namespace
}  // namespace edge
