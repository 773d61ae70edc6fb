#include "attention_kernel.h"
#include "simd/avx2.h"

namespace edge {
const AttentionKernels kAttentionAvx2 = attention_kernels<Avx2>();
}  // namespace edge
