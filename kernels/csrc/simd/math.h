// exp2, sigmoid, tanh and erf for sixteen lanes, on any instruction set of this folder.
#pragma once

namespace edge {
namespace {

// 2^x to 2e-7 relative, 2^0 exactly 1, 0 for x <= -150. Taylor series of exp(f ln 2) on |f| <= 1/2.
template <class S>
typename S::F32 exp2(typename S::F32 x) {
  x = S::min(S::max(x, S::splat(-150.0f)), S::splat(127.0f));
  const auto n = S::round(x);
  const auto f = S::sub(x, n);
  auto p = S::splat(1.5403530393e-4f);  // ln(2)^k / k! for k = 6 .. 0
  p = S::fma(p, f, S::splat(1.3333558146e-3f));
  p = S::fma(p, f, S::splat(9.6181291076e-3f));
  p = S::fma(p, f, S::splat(5.5504108665e-2f));
  p = S::fma(p, f, S::splat(2.4022650696e-1f));
  p = S::fma(p, f, S::splat(6.9314718056e-1f));
  p = S::fma(p, f, S::splat(1.0f));
  return S::scale_by_power(p, n);
}

// 2^x to 4e-5 relative, for what is rounded to bfloat16 next; infinity where x is too large. Only for instruction sets
// whose scale_by_power takes any power.
template <class S>
typename S::F32 exp2_roughly(typename S::F32 x) {
  const auto n = S::round(x);
  const auto f = S::sub(x, n);
  auto p = S::splat(9.6181291076e-3f);  // ln(2)^k / k! for k = 4 .. 0
  p = S::fma(p, f, S::splat(5.5504108665e-2f));
  p = S::fma(p, f, S::splat(2.4022650696e-1f));
  p = S::fma(p, f, S::splat(6.9314718056e-1f));
  p = S::fma(p, f, S::splat(1.0f));
  return S::scale_by_power(p, n);
}

// 1 / (1 + exp(-x))
template <class S>
typename S::F32 sigmoid(typename S::F32 x) {
  const auto one = S::splat(1.0f);
  return S::div(one, S::add(one, exp2<S>(S::mul(x, S::splat(-1.44269504f)))));
}

template <class S>
typename S::F32 silu(typename S::F32 x) {
  return S::mul(x, sigmoid<S>(x));
}

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), since (1 + tanh(y)) / 2 = sigmoid(2y)
template <class S>
typename S::F32 gelu_tanh(typename S::F32 x) {
  const auto cubic = S::mul(S::mul(x, x), x);
  const auto y = S::mul(S::splat(1.59576912f), S::fma(S::splat(0.044715f), cubic, x));
  return S::mul(x, sigmoid<S>(y));
}

// x/2 (1 + erf(x / sqrt 2)); erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error 1.5e-7).
template <class S>
typename S::F32 gelu(typename S::F32 x) {
  const auto one = S::splat(1.0f);
  const auto z = S::mul(S::abs(x), S::splat(0.70710678f));
  const auto t = S::div(one, S::fma(S::splat(0.3275911f), z, one));
  auto p = S::splat(1.061405429f);
  p = S::fma(p, t, S::splat(-1.453152027f));
  p = S::fma(p, t, S::splat(1.421413741f));
  p = S::fma(p, t, S::splat(-0.284496736f));
  p = S::fma(p, t, S::splat(0.254829592f));
  // 1 - erf(|z|), then x Phi(x) = max(x, 0) - |x| (1 - erf(|z|)) / 2
  const auto tail = S::mul(S::mul(p, t), exp2<S>(S::mul(S::mul(z, z), S::splat(-1.44269504f))));
  return S::sub(S::max(x, S::zero()), S::mul(S::mul(S::splat(0.5f), S::abs(x)), tail));
}

}  // namespace
}  // namespace edge
