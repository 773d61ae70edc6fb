#include "simd/avx2_vnni.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionAvx2Vnni = vision_attention_kernels<Avx2Vnni>();
}  // namespace edge
