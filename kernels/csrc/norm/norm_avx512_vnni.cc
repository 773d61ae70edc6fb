#include "norm_kernel.h"
#include "simd/avx512_vnni.h"

namespace edge {
const NormKernels kNormAvx512Vnni = norm_kernels<Avx512Vnni>();
}  // namespace edge
