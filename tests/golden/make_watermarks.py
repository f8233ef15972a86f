"""Makes watermark_sdxl.webp and watermark_sd1.webp with the package invisible-watermark 0.2.0, by hand.

Needs opencv-python-headless, PyWavelets and `pip install --no-deps invisible-watermark` in an environment of its own.
The package imports torch, which the method used here does not need: an empty module stands in for it.
"""

import sys
import types

sys.modules.setdefault("torch", types.ModuleType("torch"))
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from imwatermark import WatermarkEncoder  # noqa: E402

small = np.random.default_rng(7).integers(40, 216, (6, 6, 3)).astype(np.uint8)
picture = cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC)
encoder = WatermarkEncoder()
encoder.set_watermark("bits", [int(c) for c in "101100111110110010010000011110111011000110011110"])
floating = encoder.encode(picture.astype(np.float32), "dwtDct")  # as diffusers hands pictures over
lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]
cv2.imwrite("watermark_sdxl.webp", np.clip(np.rint(floating), 0, 255).astype(np.uint8), lossless)
encoder.set_watermark("bytes", b"StableDiffusionV1")
cv2.imwrite("watermark_sd1.webp", encoder.encode(picture, "dwtDct"), lossless)  # as scripts/txt2img.py does
