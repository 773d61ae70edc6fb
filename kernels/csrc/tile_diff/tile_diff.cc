// Where two frames differ, and how much. edge_kernels/reference/tile_diff.py has the definition.
#include "c_api.h"

namespace {

struct Difference {
  uint32_t sum;
  uint8_t peak;
};

// Sum and largest of |a - b| over `count` bytes.
Difference compare(const uint8_t* a, const uint8_t* b, int64_t count) {
  Difference total = {0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t d = static_cast<uint8_t>(a[i] > b[i] ? a[i] - b[i] : b[i] - a[i]);
    total.sum += d;
    total.peak = d > total.peak ? d : total.peak;
  }
  return total;
}

}  // namespace

// a, b: uint8 [height, row_bytes]; sum, peak: [ceil(height / tile_height), ceil(row_bytes / tile_bytes)]. Tiles at the
// right and bottom edges are smaller.
void edge_tile_diff(const uint8_t* a, const uint8_t* b, int64_t height, int64_t row_bytes, int64_t tile_height,
                    int64_t tile_bytes, uint32_t* sum, uint8_t* peak) {
  const int64_t columns = (row_bytes + tile_bytes - 1) / tile_bytes;
  const int64_t rows = (height + tile_height - 1) / tile_height;
  for (int64_t i = 0; i < rows * columns; ++i) {
    sum[i] = 0;
    peak[i] = 0;
  }
  for (int64_t y = 0; y < height; ++y) {  // row by row, as the frames lie in memory
    const int64_t first = y / tile_height * columns;
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t begin = column * tile_bytes;
      const int64_t count = row_bytes - begin < tile_bytes ? row_bytes - begin : tile_bytes;
      const Difference d = compare(a + y * row_bytes + begin, b + y * row_bytes + begin, count);
      sum[first + column] += d.sum;
      if (d.peak > peak[first + column]) peak[first + column] = d.peak;
    }
  }
}
