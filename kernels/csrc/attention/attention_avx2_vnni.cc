#include "attention_kernel.h"
#include "simd/avx2_vnni.h"

namespace edge {
const AttentionKernels kAttentionAvx2Vnni = attention_kernels<Avx2Vnni>();
}  // namespace edge
