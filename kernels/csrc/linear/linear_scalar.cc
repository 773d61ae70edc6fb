#include "linear_kernel.h"
#include "simd/scalar.h"

namespace edge {
const LinearKernels kLinearScalar = linear_kernels<Scalar>();
}  // namespace edge
