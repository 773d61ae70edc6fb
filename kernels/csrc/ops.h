// The list of all ops.
#pragma once

#include <vector>

namespace edge {

struct OpDefinition;

extern const OpDefinition kLinearOp;
extern const OpDefinition kAttentionOp;
extern const OpDefinition kVisionAttentionOp;
extern const OpDefinition kRmsNormOp;
extern const OpDefinition kLayerNormOp;

inline std::vector<const OpDefinition*> all_ops() {
  return {&kLinearOp, &kAttentionOp, &kVisionAttentionOp, &kRmsNormOp, &kLayerNormOp};
}

}  // namespace edge
