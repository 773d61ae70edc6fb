"""From encoded images and video frames to image embeddings: decode, resize, patchify, encode. Knows no engine."""
