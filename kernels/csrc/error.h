// Errors of the kernels: one type, whose message says which op and input, what was found and what was wanted.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace edge {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The arguments joined into one string.
template <class... Args>
std::string text(const Args&... args) {
  std::ostringstream stream;
  (stream << ... << args);
  return stream.str();
}

}  // namespace edge
