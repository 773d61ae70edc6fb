#include "simd/avx512_vnni.h"
#include "vision_attention_kernel.h"

namespace edge {
const VisionAttentionKernels kVisionAttentionAvx512Vnni = vision_attention_kernels<Avx512Vnni>();
}  // namespace edge
