// The functions an instruction set provides: one field per op. Each op's header defines its own record.
#pragma once

#include "attention/attention.h"
#include "linear/linear.h"
#include "norm/norm.h"
#include "vision_attention/vision_attention.h"

namespace edge {

struct KernelTable {
  const LinearKernels* linear;
  const AttentionKernels* attention;
  const VisionAttentionKernels* vision_attention;
  const NormKernels* norm;
};

}  // namespace edge
