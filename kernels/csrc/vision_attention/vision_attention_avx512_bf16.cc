#include "simd/avx512_bf16.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionAvx512Bf16 = vision_attention_kernels<Avx512Bf16>();
}  // namespace edge
