// The C functions the Python package calls through ctypes, besides the entry that ONNX Runtime calls.
#pragma once

#include <cstdint>

#define EDGE_EXPORT extern "C" __attribute__((visibility("default")))

// One line per instruction set of this build, best first: "name<TAB>requirements<TAB>0|1 (supported here)".
EDGE_EXPORT const char* edge_instruction_sets();

// Resized frames to rows of normalized patches; patchify/patchify.cc has the layout.
EDGE_EXPORT void edge_patchify(const uint8_t* const* frames, int64_t num_frames, int64_t height, int64_t width,
                               int64_t patch, int64_t merge, const float* scale, const float* offset, float* out);

// Differences of two frames per tile; tile_diff/tile_diff.cc has the definition.
EDGE_EXPORT void edge_tile_diff(const uint8_t* a, const uint8_t* b, int64_t height, int64_t row_bytes,
                                int64_t tile_height, int64_t tile_bytes, uint32_t* sum, uint8_t* peak);

// To measure the machine's own limits: int8 dot products on registers, `steps` rounds of them, on the instruction set
// of that name (returns how many operations that were, 0 for an unknown one); and a read of `bytes` of memory.
EDGE_EXPORT double edge_int8_peak(const char* isa, int64_t steps);
EDGE_EXPORT uint64_t edge_read(const uint64_t* memory, int64_t bytes);
