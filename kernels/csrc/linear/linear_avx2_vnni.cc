#include "linear_kernel.h"
#include "simd/avx2_vnni.h"

namespace edge {
const LinearKernels kLinearAvx2Vnni = linear_kernels<Avx2Vnni>();
}  // namespace edge
