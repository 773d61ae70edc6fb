#include "norm_kernel.h"
#include "simd/neon_dotprod.h"

namespace edge {
const NormKernels kNormNeonDotprod = norm_kernels<NeonDotprod>();
}  // namespace edge
