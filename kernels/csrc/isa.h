// Which instruction sets this build has kernels for, which of them this processor runs, and which one is chosen.
#pragma once

#include <string>
#include <vector>

namespace edge {

struct KernelTable;  // kernel_table.h

struct Isa {
  const char* name;          // as in ONNX Runtime's session option "edge_kernels.isa"
  const char* requirements;  // what the processor must have, in words
  bool supported;            // whether this processor has it
  const KernelTable* kernels;
};

// All instruction sets of this build, best first; "scalar" is always the last and always supported.
const std::vector<Isa>& instruction_sets();

// The instruction set of that name, or the best supported one for "auto". Throws Error if it is unknown to this
// build or not supported by this processor.
const Isa& find_isa(const std::string& name);

}  // namespace edge
