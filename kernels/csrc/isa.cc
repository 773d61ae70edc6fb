#include "isa.h"

#include "error.h"
#include "kernel_table.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

// What CMakeLists.txt compiles for an instruction set: a record of each op's kernels. Where it leaves an op out there
// is none, and the table is not kAll but one that borrows another instruction set's record.
#define EDGE_KERNELS(isa)                                                       \
  namespace edge::isa {                                                         \
  extern const LinearKernels linear;                                            \
  extern const AttentionKernels attention;                                      \
  extern const VisionAttentionKernels vision_attention;                         \
  extern const NormKernels norm;                                                \
  constexpr KernelTable kAll = {&linear, &attention, &vision_attention, &norm}; \
  }
EDGE_KERNELS(scalar)
EDGE_KERNELS(avx2)
EDGE_KERNELS(avx2_vnni)
EDGE_KERNELS(avx512_vnni)
EDGE_KERNELS(avx512_bf16)
EDGE_KERNELS(neon_dotprod)
EDGE_KERNELS(neon_i8mm)

namespace edge {
namespace {

#if defined(__x86_64__)
constexpr KernelTable kAvx2Vnni = {&avx2_vnni::linear, &avx2_vnni::attention, &avx2_vnni::vision_attention,
                                   &avx2::norm};
constexpr KernelTable kAvx512Bf16 = {&avx512_vnni::linear, &avx512_bf16::attention, &avx512_bf16::vision_attention,
                                     &avx512_vnni::norm};

// The compiler's own test asks cpuid, and whether the operating system saves the registers.
std::vector<Isa> detect() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#ifdef EDGE_EMULATED_AVX512  // the tests: all but the norms of avx2_vnni in plain C++
  const bool avx512 = true, bf16 = true, avx_vnni = avx2;
#else
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
#ifdef EDGE_AVX2_VNNI_AS_AVX512
  const bool avx_vnni = avx512;
#else
  const bool avx_vnni = avx2 && __builtin_cpu_supports("avxvnni");
#endif
#endif
  return {
      {"avx512_bf16", "AVX-512 F/BW/VL/DQ, VNNI and BF16", bf16, &kAvx512Bf16},
      {"avx512_vnni", "AVX-512 F/BW/VL/DQ and VNNI", avx512, &avx512_vnni::kAll},
      {"avx2_vnni", "AVX2, FMA, F16C and AVX-VNNI", avx_vnni, &kAvx2Vnni},
      {"avx2", "AVX2, FMA and F16C", avx2, &avx2::kAll},
      {"scalar", "nothing", true, &scalar::kAll},
  };
}
#elif defined(__aarch64__)
constexpr KernelTable kNeonI8mm = {&neon_i8mm::linear, &neon_dotprod::attention, &neon_dotprod::vision_attention,
                                   &neon_dotprod::norm};

std::vector<Isa> detect() {
  const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  const bool i8mm = dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
  return {
      {"neon_i8mm", "NEON with dot product and int8 matrix multiply", i8mm, &kNeonI8mm},
      {"neon_dotprod", "NEON with dot product", dotprod, &neon_dotprod::kAll},
      {"scalar", "nothing", true, &scalar::kAll},
  };
}
#else
std::vector<Isa> detect() { return {{"scalar", "nothing", true, &scalar::kAll}}; }
#endif

}  // namespace

const std::vector<Isa>& instruction_sets() {
  static const std::vector<Isa> all = detect();
  return all;
}

const Isa& find_isa(const std::string& name) {
  std::string known;
  for (const Isa& isa : instruction_sets()) {
    known += text(", ", isa.name);
    if (name == "auto" && isa.supported) return isa;
    if (name != isa.name) continue;
    if (isa.supported) return isa;
    throw Error(text("instruction set ", name, " needs ", isa.requirements, ", which this processor lacks"));
  }
  throw Error(text("instruction set '", name, "' is not one of this build: wanted auto", known));
}

}  // namespace edge
