#include "simd/neon_dotprod.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionNeonDotprod = vision_attention_kernels<NeonDotprod>();
}  // namespace edge
