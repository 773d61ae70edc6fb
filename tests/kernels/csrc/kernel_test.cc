// The kernels of every instruction set this processor has, against plain loops
// in double precision, over odd and random shapes. Needs no ONNX Runtime: runs
// under sanitizers, and under qemu-user for other processors.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "attention/tile_memory.h"
#include "isa.h"
#include "kernel_table.h"

namespace edge {
namespace {

std::mt19937 rng(20);
int failures = 0;

int pick(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(rng);
}
int one_of(std::initializer_list<int> values) {
  return values.begin()[pick(0, static_cast<int>(values.size()) - 1)];
}

std::vector<float> random_floats(size_t count, float low = -1, float high = 1) {
  std::uniform_real_distribution<float> distribution(low, high);
  std::vector<float> out(count);
  for (float &x : out)
    x = distribution(rng);
  return out;
}

void expect_close(const std::string &what, const std::vector<float> &got,
                  const std::vector<double> &wanted, double tolerance) {
  double largest = 0, worst = 0;
  for (double w : wanted)
    largest = std::max(largest, std::fabs(w));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::fabs(got[i] - wanted[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  if (worst <= tolerance * largest + 1e-12)
    return;
  std::printf("FAILED %s: off by %g of %g\n", what.c_str(), worst, largest);
  ++failures;
}

void expect_same_bits(const std::string &what, const std::vector<float> &a,
                      const std::vector<float> &b) {
  if (a == b)
    return;
  std::printf("FAILED %s: different bits\n", what.c_str());
  ++failures;
}

uint16_t half_power_of_two(int exponent) {
  return static_cast<uint16_t>((exponent + 15) << 10);
}

struct LinearCase {
  int rows, features, in, bits, block;
  LinearWeights weights;
  std::vector<uint8_t> packed;
  std::vector<uint16_t> scales;
  std::vector<float> x;

  LinearCase() {
    rows = pick(1, 17);
    features = pick(1, 70);
    in = pick(1, 300);
    bits = one_of({4, 8});
    block = one_of({32, 64, 128});
    const int64_t padded = (in + block - 1) / block * block;
    const size_t groups = static_cast<size_t>(features + 15) / 16;
    packed.resize(groups * 16 * static_cast<size_t>(padded * bits / 8));
    for (uint8_t &byte : packed)
      byte = static_cast<uint8_t>(pick(0, 255));
    scales.resize(groups * 16 * static_cast<size_t>(padded / block));
    for (uint16_t &scale : scales)
      scale = half_power_of_two(pick(-9, -6));
    x = random_floats(static_cast<size_t>(rows * in));
    weights = {packed.data(), scales.data(), bits, block, padded};
  }
  std::string describe(const char *isa) const {
    return std::string(isa) + " Linear rows " + std::to_string(rows) +
           " features " + std::to_string(features) + " in " +
           std::to_string(in) + " bits " + std::to_string(bits) + " block " +
           std::to_string(block);
  }
  // Weight of a channel and input as linear.h lays it out.
  int weight(int channel, int input) const {
    const int64_t group = channel / 16, lane = channel % 16;
    if (bits == 8) {
      const int64_t step = group * (weights.in_padded / 4) + input / 4;
      return packed[static_cast<size_t>(step * 64 + lane * 4 + input % 4)] -
             128;
    }
    const int64_t step = group * (weights.in_padded / 8) + input / 8;
    const int byte =
        packed[static_cast<size_t>(step * 64 + lane * 4 + input % 4)];
    return (input % 8 < 4 ? byte & 15 : byte >> 4) - 8;
  }
  double scale(int channel, int input) const {
    const int64_t blocks = weights.in_padded / block;
    const uint16_t half = scales[static_cast<size_t>(
        (channel / 16 * blocks + input / block) * 16 + channel % 16)];
    return std::ldexp(1.0, (half >> 10) - 15);
  }
};

void test_linear(const Isa &isa) {
  const LinearCase c;
  const LinearKernels &kernels = *isa.kernels->linear;
  const size_t blocks = static_cast<size_t>(c.weights.in_padded / c.block);
  const size_t rows = static_cast<size_t>(c.rows),
               features = static_cast<size_t>(c.features);
  std::vector<int8_t> values(rows * static_cast<size_t>(c.weights.in_padded));
  std::vector<float> scales(rows * blocks);
  std::vector<int32_t> starts(rows * blocks);
  std::vector<float> poison(rows);
  const QuantizedRows quantized{values.data(), scales.data(), starts.data(),
                                poison.data()};
  for (int r = 0; r < c.rows; ++r)
    kernels.quantize(c.x.data() + r * c.in, c.in, c.weights, quantized, r);

  std::vector<double> wanted(rows * features);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t n = 0; n < features; ++n) {
      for (int k = 0; k < c.in; ++k) {
        const double x =
            values[r * static_cast<size_t>(c.weights.in_padded) +
                   static_cast<size_t>(k)] *
            static_cast<double>(
                scales[r * blocks + static_cast<size_t>(k / c.block)]);
        wanted[r * features + n] += x * c.weight(static_cast<int>(n), k) *
                                    c.scale(static_cast<int>(n), k);
        if (n > 0)
          continue; // quantization: within half a step of the input
        const double error = std::fabs(
            x - c.x[r * static_cast<size_t>(c.in) + static_cast<size_t>(k)]);
        if (error >
            0.5001 * scales[r * blocks + static_cast<size_t>(k / c.block)])
          ++failures;
      }
    }
  }
  const std::vector<float> bias = random_floats(features),
                           residual = random_floats(rows * features);
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] += static_cast<double>(bias[i % features]) + residual[i];
  std::vector<float> out(rows * features, NAN);
  const LinearOutput output{out.data(), bias.data(), residual.data(),
                            c.features, Activation::kNone};
  kernels.multiply(c.weights, quantized, output, 0, c.rows, 0,
                   (c.features + 15) / 16);
  expect_close(c.describe(isa.name), out, wanted, 1e-5);

  std::vector<float> by_row(rows * features, NAN);
  const LinearOutput again{by_row.data(), bias.data(), residual.data(),
                           c.features, Activation::kNone};
  for (int r = 0; r < c.rows; ++r) {
    for (int g = 0; g < (c.features + 15) / 16; ++g)
      kernels.multiply(c.weights, quantized, again, r, r + 1, g, g + 1);
  }
  expect_same_bits(c.describe(isa.name) + " row by row", out, by_row);
}

// Attention in double precision for one head; rows of `dim` numbers.
void plain_attention(const double *q, const std::vector<double> &keys,
                     const std::vector<double> &values, int seen, int dim,
                     double *out) {
  std::vector<double> scores(static_cast<size_t>(seen));
  double peak = -INFINITY, total = 0;
  for (int n = 0; n < seen; ++n) {
    for (int d = 0; d < dim; ++d)
      scores[static_cast<size_t>(n)] +=
          q[d] * keys[static_cast<size_t>(n * dim + d)];
    scores[static_cast<size_t>(n)] /= std::sqrt(dim);
    peak = std::max(peak, scores[static_cast<size_t>(n)]);
  }
  for (double &s : scores)
    total += s = std::exp(s - peak);
  for (int d = 0; d < dim; ++d) {
    out[d] = 0;
    for (int n = 0; n < seen; ++n) {
      out[d] += scores[static_cast<size_t>(n)] / total *
                values[static_cast<size_t>(n * dim + d)];
    }
  }
}

std::vector<double> rotated(const float *x, const float *cosine,
                            const float *sine, int dim) {
  std::vector<double> out(static_cast<size_t>(dim));
  for (int i = 0; i < dim / 2; ++i) {
    const double a = x[i], b = x[i + dim / 2];
    out[static_cast<size_t>(i)] = a * cosine[i] - b * sine[i];
    out[static_cast<size_t>(i + dim / 2)] = b * cosine[i] + a * sine[i];
  }
  return out;
}

std::vector<double> normed(const float *x, const float *weight, int dim) {
  double squares = 0;
  for (int d = 0; d < dim; ++d)
    squares += static_cast<double>(x[d]) * x[d];
  std::vector<double> out(static_cast<size_t>(dim));
  for (int d = 0; d < dim; ++d)
    out[static_cast<size_t>(d)] =
        x[d] / std::sqrt(squares / dim + 1e-6) * weight[d];
  return out;
}

// One chat, all tokens at once, in a cache of one byte more than needed per
// type so that sanitizers see overruns.
void test_attention(const Isa &isa, CacheType type) {
  const int dim = one_of({8, 24, 64, 72, 128}), kv_heads = pick(1, 3),
            group = pick(1, 3), block = pick(1, 20);
  const int tokens = pick(1, 90), heads = kv_heads * group,
            blocks = (tokens + block - 1) / block;
  const size_t bytes = type == CacheType::kFloat32   ? 4
                       : type == CacheType::kFloat16 ? 2
                                                     : 1;
  const size_t rows = static_cast<size_t>(blocks * kv_heads * block);
  const size_t t = static_cast<size_t>(tokens), d = static_cast<size_t>(dim);
  std::vector<uint8_t> keys(rows * d * bytes, 0xff),
      values(rows * d * bytes, 0xff);
  std::vector<float> key_scales(rows, NAN), value_scales(rows, NAN),
      out(t * static_cast<size_t>(heads) * d, NAN);
  const std::vector<float> qkv =
      random_floats(t * static_cast<size_t>(heads + 2 * kv_heads) * d, -2, 2);
  const std::vector<float> q_norm = random_floats(d, 0.5f, 2),
                           k_norm = random_floats(d, 0.5f, 2);
  std::vector<float> cosine = random_floats(t * d / 2), sine(t * d / 2);
  for (size_t i = 0; i < sine.size(); ++i)
    sine[i] = std::sqrt(1 - cosine[i] * cosine[i]);
  std::vector<int32_t> table(static_cast<size_t>(blocks)), row(t, 0), slot(t),
      seen(t);
  for (int i = 0; i < blocks; ++i)
    table[static_cast<size_t>(i)] = i;
  std::shuffle(table.begin(), table.end(), rng);
  for (int i = 0; i < tokens; ++i)
    seen[static_cast<size_t>(i)] = (slot[static_cast<size_t>(i)] = i) + 1;

  AttentionRun run = {};
  run.qkv = qkv.data();
  run.q_norm = q_norm.data();
  run.k_norm = k_norm.data();
  run.rope_cos = cosine.data();
  run.rope_sin = sine.data();
  run.key_cache = keys.data();
  run.value_cache = values.data();
  run.key_scale = key_scales.data();
  run.value_scale = value_scales.data();
  run.block_table = table.data();
  run.token_row = row.data();
  run.token_slot = slot.data();
  run.token_keys = seen.data();
  run.out = out.data();
  run.max_blocks = blocks;
  run.heads = heads;
  run.kv_heads = kv_heads;
  run.head_dim = dim;
  run.block_size = block;
  run.cache = type;
  run.epsilon = 1e-6f;
  run.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const AttentionKernels &kernels = *isa.kernels->attention;
  std::vector<uint8_t> memory(attention_scratch_bytes(run) + 64);
  void *scratch = memory.data() +
                  (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  for (int i = 0; i < tokens; ++i)
    kernels.append(run, i);
  const int64_t most = attention_tile_tokens(run);
  for (int64_t i = 0; i < tokens; i += most) {
    for (int h = 0; h < kv_heads; ++h)
      kernels.attend(run, i, std::min<int64_t>(tokens, i + most), h, scratch);
  }

  std::vector<double> wanted(out.size());
  const int stride = (heads + 2 * kv_heads) * dim;
  for (int h = 0; h < kv_heads; ++h) {
    std::vector<double> k, v;
    for (int i = 0; i < tokens; ++i) {
      const float *token = qkv.data() + i * stride;
      const std::vector<double> n =
          normed(token + (heads + h) * dim, k_norm.data(), dim);
      const std::vector<float> single(n.begin(), n.end());
      const std::vector<double> key =
          rotated(single.data(), cosine.data() + i * dim / 2,
                  sine.data() + i * dim / 2, dim);
      k.insert(k.end(), key.begin(), key.end());
      v.insert(v.end(), token + (heads + kv_heads + h) * dim,
               token + (heads + kv_heads + h + 1) * dim);
    }
    for (int i = 0; i < tokens; ++i) {
      for (int g = h * group; g < (h + 1) * group; ++g) {
        const std::vector<double> n =
            normed(qkv.data() + i * stride + g * dim, q_norm.data(), dim);
        const std::vector<float> single(n.begin(), n.end());
        const std::vector<double> q =
            rotated(single.data(), cosine.data() + i * dim / 2,
                    sine.data() + i * dim / 2, dim);
        plain_attention(q.data(), k, v, i + 1, dim,
                        wanted.data() + (i * heads + g) * dim);
      }
    }
  }
  const double tolerance = type == CacheType::kFloat32   ? 1e-5
                           : type == CacheType::kFloat16 ? 2e-3
                                                         : 6e-2;
  const std::string what =
      std::string(isa.name) + " Attention of " + std::to_string(bytes) +
      " byte cache, tokens " + std::to_string(tokens) + " heads " +
      std::to_string(heads) + "/" + std::to_string(kv_heads) + " dim " +
      std::to_string(dim) + " block " + std::to_string(block);
  expect_close(what, out, wanted, tolerance);
  std::vector<float> alone(out.size(), NAN);
  run.out = alone.data();
  for (int i = 0; i < tokens; ++i) {
    for (int h = 0; h < kv_heads; ++h)
      kernels.attend(run, i, i + 1, h, scratch);
  }
  expect_same_bits(what + " token by token", out, alone);
}

void test_vision_attention(const Isa &isa) {
  const int dim = one_of({8, 24, 64, 72}), heads = pick(1, 3),
            patches = pick(1, 300);
  const size_t n = static_cast<size_t>(patches), d = static_cast<size_t>(dim),
               h = static_cast<size_t>(heads);
  const std::vector<float> qkv = random_floats(n * 3 * h * d, -2, 2),
                           cosine = random_floats(n * d / 2);
  std::vector<float> sine(n * d / 2), out(n * h * d, NAN);
  for (size_t i = 0; i < sine.size(); ++i)
    sine[i] = std::sqrt(1 - cosine[i] * cosine[i]);
  VisionAttentionRun run{
      qkv.data(),  cosine.data(),
      sine.data(), out.data(),
      patches,     0,
      patches,     heads,
      dim,         1.0f / std::sqrt(static_cast<float>(dim))};
  const VisionAttentionKernels &kernels = *isa.kernels->vision_attention;
  const size_t padded = (n + kTileKeys - 1) / kTileKeys * kTileKeys,
               width = (d + 15) / 16 * 16;
  std::vector<uint8_t> keys(padded * d),
      values(padded * width * kernels.value_bytes);
  std::vector<float> scales(padded);
  const VisionHead packed{keys.data(), scales.data(), values.data()};
  std::vector<uint8_t> memory(tile_memory_bytes(kTileQueryRows, d) + 64);
  void *scratch = memory.data() +
                  (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  std::vector<double> wanted(out.size());
  for (int head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < static_cast<int64_t>(padded); i += kTileKeys)
      kernels.pack(run, head, i, packed);
    for (int64_t i = 0; i < patches; i += kTileQueryRows) {
      kernels.attend(run, head, i,
                     std::min<int64_t>(patches, i + kTileQueryRows), packed,
                     scratch);
    }
    std::vector<double> k, v;
    for (int i = 0; i < patches; ++i) {
      const float *patch = qkv.data() + i * 3 * heads * dim;
      const std::vector<double> key =
          rotated(patch + (heads + head) * dim, cosine.data() + i * dim / 2,
                  sine.data() + i * dim / 2, dim);
      k.insert(k.end(), key.begin(), key.end());
      v.insert(v.end(), patch + (2 * heads + head) * dim,
               patch + (2 * heads + head + 1) * dim);
    }
    for (int i = 0; i < patches; ++i) {
      const std::vector<double> q =
          rotated(qkv.data() + (i * 3 * heads + head) * dim,
                  cosine.data() + i * dim / 2, sine.data() + i * dim / 2, dim);
      plain_attention(q.data(), k, v, patches, dim,
                      wanted.data() + (i * heads + head) * dim);
    }
  }
  expect_close(std::string(isa.name) + " VisionAttention patches " +
                   std::to_string(patches) + " heads " + std::to_string(heads) +
                   " dim " + std::to_string(dim),
               out, wanted, 6e-2);
}

void test_norm(const Isa &isa) {
  const size_t width = static_cast<size_t>(pick(1, 300));
  const std::vector<float> x = random_floats(width, 1, 3),
                           residual = random_floats(width);
  const std::vector<float> weight = random_floats(width),
                           bias = random_floats(width);
  std::vector<float> rms(width, NAN), layer(width, NAN), sum(width, NAN);
  NormRow row{x.data(),
              residual.data(),
              weight.data(),
              bias.data(),
              rms.data(),
              sum.data(),
              static_cast<int64_t>(width),
              1e-6f};
  isa.kernels->norm->rms(row);
  row.y = layer.data();
  isa.kernels->norm->layer(row);
  double mean = 0, squares = 0, variance = 0;
  for (size_t i = 0; i < width; ++i)
    mean +=
        (static_cast<double>(x[i]) + residual[i]) / static_cast<double>(width);
  std::vector<double> wanted_rms(width), wanted_layer(width), wanted_sum(width);
  for (size_t i = 0; i < width; ++i) {
    wanted_sum[i] = static_cast<double>(x[i]) + residual[i];
    squares += wanted_sum[i] * wanted_sum[i] / static_cast<double>(width);
    variance += (wanted_sum[i] - mean) * (wanted_sum[i] - mean) /
                static_cast<double>(width);
  }
  for (size_t i = 0; i < width; ++i) {
    wanted_rms[i] = wanted_sum[i] / std::sqrt(squares + 1e-6) * weight[i];
    wanted_layer[i] =
        (wanted_sum[i] - mean) / std::sqrt(variance + 1e-6) * weight[i] +
        bias[i];
  }
  const std::string what =
      std::string(isa.name) + " width " + std::to_string(width);
  expect_close(what + " RMSNorm", rms, wanted_rms, 1e-5);
  expect_close(what + " LayerNorm", layer, wanted_layer,
               1e-3); // a width of 1 divides rounding errors by 1e-3
  expect_close(what + " sum", sum, wanted_sum, 1e-6);
}

} // namespace
} // namespace edge

// kernel_test [rounds] [instruction set]
int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
  for (const edge::Isa &isa : edge::instruction_sets()) {
    if (!isa.supported || (argc > 2 && argv[2] != std::string(isa.name)))
      continue;
    for (int i = 0; i < rounds; ++i) {
      edge::test_linear(isa);
      edge::test_norm(isa);
      edge::test_vision_attention(isa);
      for (auto type : {edge::CacheType::kFloat32, edge::CacheType::kFloat16,
                        edge::CacheType::kInt8}) {
        edge::test_attention(isa, type);
      }
    }
    std::printf("%s: %d rounds, %d failures so far\n", isa.name, rounds,
                edge::failures);
  }
  return edge::failures == 0 ? 0 : 1;
}
