"""The detector published with the paper: its linear layer on CLIP ViT-L/14."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .backbones import Backbone, open_backbone
from .detector import Detector, linear_detector
from .downloads import Progress, sha256_of
from .errors import FormatError
from .torchfile import read_tensors
from .views import view

BACKBONE, TAPS, VIEW = "clip-vit-l-14", ("proj",), "native"
PUBLISHED_SHA256 = "477100745713bcc957beb2b40859536859b6483fd6301b3b9293151b194c7847"


def official(head: Path, *, progress: Progress | None = None, backbone: Backbone | None = None) -> Detector:
    """The paper's published detector: CLIP ViT-L/14, projected embedding, native view, its own linear layer.

    There is no bank, hence no neighbours as evidence; it decides at score 0 (probability 0.5), as the paper does. A
    head that is not the published file is named by its checksum.

    Args:
        head: `fc_weights.pth` of the paper's repository.
        progress: called while downloading the encoder.
        backbone: take this encoder instead (it must give as many values as the head has weights).

    Raises:
        FormatError: another file.
        UsageError: the encoder's embeddings do not fit the head.
        WeightsError: see `univfd.weights.ensure`.
    """
    coef, intercept = read_head(head)
    encoder = backbone or open_backbone(BACKBONE, taps=TAPS, progress=progress)
    name = "univfd-official" if sha256_of(head) == PUBLISHED_SHA256 else f"head-{sha256_of(head)[:8]}"
    return linear_detector(name, encoder, view(VIEW), coef, intercept)


def read_head(path: Path) -> tuple[NDArray[np.float64], float]:
    """The linear layer of a PyTorch file with `weight` `(1, D)` and `bias` `(1,)`, read without PyTorch.

    Returns:
        `w` `(D,)` and `b`.

    Raises:
        FormatError: another content.
    """
    tensors = read_tensors(path)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[0] != 1 or bias.shape != (1,):
        got = {name: tensor.shape for name, tensor in tensors.items()}
        raise FormatError(f"{path} holds {got}; expected the linear layer: weight (1, D) and bias (1,)")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise FormatError(f"{path}: the linear layer has values that are not finite")
    return weight[0].astype(np.float64), float(bias[0])
