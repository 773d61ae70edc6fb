#include "attention_kernel.h"
#include "simd/neon_dotprod.h"

namespace edge {
const AttentionKernels kAttentionNeonDotprod = attention_kernels<NeonDotprod>();
}  // namespace edge
