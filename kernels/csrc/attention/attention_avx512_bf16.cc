#include "attention_kernel.h"
#include "simd/avx512_bf16.h"

namespace edge {
const AttentionKernels kAttentionAvx512Bf16 = attention_kernels<Avx512Bf16>();
}  // namespace edge
