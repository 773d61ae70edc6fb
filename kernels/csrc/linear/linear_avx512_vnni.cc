#include "linear_kernel.h"
#include "simd/avx512_vnni.h"

namespace edge {
const LinearKernels kLinearAvx512Vnni = linear_kernels<Avx512Vnni>();
}  // namespace edge
