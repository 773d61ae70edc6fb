#include "attention_kernel.h"
#include "simd/scalar.h"

namespace edge {
const AttentionKernels kAttentionScalar = attention_kernels<Scalar>();
}  // namespace edge
