#include "norm_kernel.h"
#include "simd/scalar.h"

namespace edge {
const NormKernels kNormScalar = norm_kernels<Scalar>();
}  // namespace edge
