"""Resizing of decoded pictures. Knows nothing of files, patches or tokens."""

from __future__ import annotations

import numpy as np
from PIL import Image

from edge_runtime.vision.image import Pixels


def resize_image(pixels: Pixels, height: int, width: int) -> Pixels:
    """`pixels` at another size, bicubic with antialiasing (Pillow), as transformers' slow image processor does it."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
