#include "linear_kernel.h"
#include "simd/avx2.h"

namespace edge {
const LinearKernels kLinearAvx2 = linear_kernels<Avx2>();
}  // namespace edge
