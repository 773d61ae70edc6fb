#include "attention_kernel.h"
#include "simd/avx512_vnni.h"

namespace edge {
const AttentionKernels kAttentionAvx512Vnni = attention_kernels<Avx512Vnni>();
}  // namespace edge
