#include "simd/avx2.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionAvx2 = vision_attention_kernels<Avx2>();
}  // namespace edge
