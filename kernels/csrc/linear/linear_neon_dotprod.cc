#include "linear_kernel.h"
#include "simd/neon_dotprod.h"

namespace edge {
const LinearKernels kLinearNeonDotprod = linear_kernels<NeonDotprod>();
}  // namespace edge
