// Resized frames -> the rows a vision tower eats, in one pass. edge_kernels/reference/patchify.py has the definition.
#include <cstring>

#include "c_api.h"

namespace {

constexpr int64_t kMaxPatch = 64;

// One row of one frame's patch: planes[channel][x] = pixels[x][channel] * scale[channel] + offset[channel]. In steps
// that the compiler turns into vector code: bytes to floats, channels apart, scaled.
void write_row(const uint8_t* pixels, int64_t patch, const float* scale, const float* offset, float* planes,
               int64_t plane_size) {
  float values[3 * kMaxPatch];
  for (int64_t i = 0; i < 3 * patch; ++i) values[i] = static_cast<float>(pixels[i]);
  for (int64_t c = 0; c < 3; ++c) {
    const float a = scale[c], b = offset[c];
    for (int64_t x = 0; x < patch; ++x) planes[c * plane_size + x] = values[3 * x + c] * a + b;
  }
}

// One patch: out[channel][frame][y][x].
void write_patch(const uint8_t* const* frames, int64_t num_frames, int64_t start, int64_t row_bytes, int64_t patch,
                 const float* scale, const float* offset, float* out) {
  const int64_t frame_size = patch * patch, plane_size = num_frames * frame_size;
  for (int64_t f = 0; f < num_frames; ++f) {
    float* planes = out + f * frame_size;
    if (f > 0 && frames[f] == frames[0]) {  // an image: the same frame again
      for (int64_t c = 0; c < 3; ++c) {
        std::memcpy(planes + c * plane_size, out + c * plane_size, static_cast<size_t>(frame_size) * sizeof(float));
      }
      continue;
    }
    for (int64_t y = 0; y < patch; ++y) {
      write_row(frames[f] + start + y * row_bytes, patch, scale, offset, planes + y * patch, plane_size);
    }
  }
}

}  // namespace

// patch: at most 64. frames: num_frames pointers (the temporal patch; the same twice for an image) to uint8 [height,
// width, 3], height and width multiples of patch * merge. out: float32 [height * width / patch^2, 3 * num_frames *
// patch^2], patches in merge order: block row, block column, row in block, column in block.
void edge_patchify(const uint8_t* const* frames, int64_t num_frames, int64_t height, int64_t width, int64_t patch,
                   int64_t merge, const float* scale, const float* offset, float* out) {
  const int64_t block = patch * merge, row_bytes = width * 3;
  for (int64_t top = 0; top < height; top += block) {
    for (int64_t left = 0; left < width; left += block) {
      for (int64_t i = 0; i < merge * merge; ++i) {
        const int64_t start = (top + i / merge * patch) * row_bytes + (left + i % merge * patch) * 3;
        write_patch(frames, num_frames, start, row_bytes, patch, scale, offset, out);
        out += 3 * num_frames * patch * patch;
      }
    }
  }
}
