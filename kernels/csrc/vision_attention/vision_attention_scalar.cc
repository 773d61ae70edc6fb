#include "simd/scalar.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionScalar = vision_attention_kernels<Scalar>();
}  // namespace edge
