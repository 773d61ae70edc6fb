// The library's C interface: the entry ONNX Runtime calls, and what `edge_kernels` asks through ctypes.
#include "c_api.h"
#include "isa.h"
#include "op.h"

namespace {

constexpr char kIsaOption[] = "edge_kernels.isa";

// ONNX Runtime's session option that forces an instruction set; "auto" when it is not set.
std::string isa_option(const edge::ort::SessionOptions* options, const edge::ort::Api* api) {
  using namespace edge::ort;
  int has = 0;
  if (auto* status = HasSessionConfigEntry::call(api, options, kIsaOption, &has)) ReleaseStatus::call(api, status);
  if (has == 0) return "auto";
  char value[64] = {};
  size_t size = sizeof(value);
  if (auto* status = GetSessionConfigEntry::call(api, options, kIsaOption, value, &size)) {
    ReleaseStatus::call(api, status);
    throw edge::Error(edge::text("session option ", kIsaOption, " is longer than any instruction set's name"));
  }
  return value;
}

}  // namespace

EDGE_EXPORT edge::ort::Status* RegisterCustomOps(edge::ort::SessionOptions* options, const edge::ort::ApiBase* base) {
  const edge::ort::Api* api = base->get_api(edge::ort::kApiVersion);
  if (api == nullptr) {
    // Too old to know the version we ask for; version 1 of the table still lets us say so.
    api = base->get_api(1);
    const std::string message = edge::text("edge kernels need ONNX Runtime 1.", edge::ort::kApiVersion,
                                           " or newer, this is ", base->get_version_string());
    return edge::ort::CreateStatus::call(api, edge::ort::kFail, message.c_str());
  }
  try {
    edge::register_ops(options, api, edge::find_isa(isa_option(options, api)));
    return nullptr;
  } catch (const std::exception& error) {
    return edge::ort::CreateStatus::call(api, edge::ort::kInvalidArgument, error.what());
  }
}

const char* edge_instruction_sets() {
  static const std::string lines = [] {
    std::string out;
    for (const edge::Isa& isa : edge::instruction_sets()) {
      out += edge::text(isa.name, "\t", isa.requirements, "\t", isa.supported ? 1 : 0, "\n");
    }
    return out;
  }();
  return lines.c_str();
}

double edge_int8_peak(const char* isa, int64_t steps) {
  try {
    return edge::find_isa(isa).kernels->linear->peak(steps);
  } catch (const edge::Error&) {
    return 0;
  }
}

uint64_t edge_read(const uint64_t* memory, int64_t bytes) {
  uint64_t lanes[8] = {};
  for (int64_t i = 0; i + 8 <= bytes / 8; i += 8) {
    // Asks for a line 2 KiB before it is needed.
    __builtin_prefetch(memory + i + 256);
    for (int64_t j = 0; j < 8; ++j) lanes[j] ^= memory[i + j];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total ^= lane;
  return total;
}
