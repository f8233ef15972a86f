"""The trained deep network that the paper compares with: train one, and save it as a detector (extra `torch`).

Wang et al. 2020 (arXiv 1912.11035) fine-tune a ResNet-50 on pictures that are blurred and JPEG-compressed at random.
Here: that network, a small one for CPUs, CLIP's image tower from end to end, and any network of timm. The result is a
detector's folder like any other: the network without its last layer is a backbone, the last layer a linear classifier.
PyTorch is imported by `networks`, `loop` and `export` alone, and nothing is imported by this file.
"""

CLIP = "clip-vit-b-16"
"""The backbone that `clip` means."""
RECORD = "training.json"
"""The file beside a trained network's encoder that says what it was trained on."""
