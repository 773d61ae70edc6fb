// Memory an op needs while it runs. One block per thread that only grows, so that a decode step never allocates; the
// ops bound what they ask for by working in chunks, so it stays at a few MiB whatever the sizes of the model or image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace edge {

// Hands out aligned pieces of this thread's block. A second Scratch on the same thread would reuse the same memory,
// so a function that holds one must not call another that makes one. `Tag` separates callers from parallel_for bodies,
// which can run on the calling thread.
template <class Tag>
class Scratch {
 public:
  // `bytes` must cover every later `take`.
  explicit Scratch(size_t bytes) {
    bytes += kAlign;  // room for rounding the last piece
    Block& block = this_thread();
    if (block.size < bytes) {
      block.memory.reset();
      block.memory.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlign, round_up(bytes))));
      if (!block.memory) {
        block.size = 0;
        throw std::bad_alloc();
      }
      block.size = round_up(bytes);
    }
    next_ = block.memory.get();
  }

  template <class T>
  T* take(size_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += round_up(count * sizeof(T));
    return piece;
  }

  static size_t bytes_for(size_t count, size_t element_size) { return round_up(count * element_size); }

 private:
  static constexpr size_t kAlign = 64;
  static size_t round_up(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<uint8_t, Free> memory;
    size_t size = 0;
  };
  static Block& this_thread() {
    thread_local Block block;
    return block;
  }

  uint8_t* next_;
};

}  // namespace edge
