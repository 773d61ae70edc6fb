// The seam between the Linear op (linear.cc: checks, threads) and its kernels (linear_kernel.cc).
//
//   out[m, n] = act(sum over blocks b of: sx[m, b] * sw[n, b] * sum over k in b of qx[m, k] * (qw[n, k] - zero) +
//   bias[n])
//
// Weights: sixteen output channels ("a group") x 64 bytes, in the order they are read: int4 [groups][in/8][16][4] with
// inputs 0-3 in the low and 4-7 in the high nibbles, int8 [groups][in/4][16][4]; scales float16 [groups][in/block][16].
// Inputs are quantized to int8 for each row and block, for int4 with a power of two as scale. The sum over a block is
// exact; blocks are added in order in float32, so a row's result does not depend on the tile, the run or the thread
// that computes it.
#pragma once

#include <cstdint>

namespace edge {

enum class Activation { kNone, kGelu, kGeluTanh, kSiluMul };

struct LinearWeights {
  const uint8_t* packed;
  const uint16_t* scales;
  int bits;           // 4 or 8
  int block;          // inputs that share a scale: 32, 64 or 128
  int64_t in_padded;  // inputs rounded up to whole blocks
};

// Rows of activations in int8. `starts` is -zero * (sum of the block), where an integer sum begins; float sums begin at
// `poison`, which is 0, or NaN if the row has a value that is not finite.
struct QuantizedRows {
  int8_t* values;   // [rows, in_padded]
  float* scales;    // [rows, in_padded / block]; powers of two for int4
  int32_t* starts;  // [rows, in_padded / block]
  float* poison;    // [rows]
};

// Where results go. With kSiluMul even groups are gates and odd groups are ups: silu(gate) * up, half the channels.
struct LinearOutput {
  float* out;             // [rows, features]
  const float* bias;      // [features] or null; for kSiluMul always null
  const float* residual;  // [rows, features] added last, or null
  int64_t features;
  Activation activation;
};

struct LinearKernels {
  // Quantizes one row of `in` floats into row `row` of `out`.
  void (*quantize)(const float* x, int64_t in, const LinearWeights& weights, const QuantizedRows& out, int64_t row);
  // Computes rows [row_begin, row_end) of the channels in groups [group_begin, group_end).
  void (*multiply)(const LinearWeights& weights, const QuantizedRows& x, const LinearOutput& out, int64_t row_begin,
                   int64_t row_end, int64_t group_begin, int64_t group_end);
  // Nothing but dot products on registers, to measure what the processor can do: `steps` rounds of them. Returns how
  // many int8 operations that were (a multiply and an add are two).
  double (*peak)(int64_t steps);
};

}  // namespace edge
