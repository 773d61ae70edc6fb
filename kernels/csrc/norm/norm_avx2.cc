#include "norm_kernel.h"
#include "simd/avx2.h"

namespace edge {
const NormKernels kNormAvx2 = norm_kernels<Avx2>();
}  // namespace edge
