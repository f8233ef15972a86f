"""The networks published by Wang et al. 2020 (CNNDetection), which the paper compares with: a trained ResNet-50.

`blur_jpg_prob0.5.pth` and `blur_jpg_prob0.1.pth` hold the network, one linear layer included, and the state of the
optimiser. The network becomes a backbone folder, the layer a linear classifier: it takes the same line as any detector.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from .backbones import open_backbone
from .catalogue import ENTRY_FILE, Entry, to_toml
from .detector import linear_detector
from .downloads import sha256_of
from .errors import FormatError
from .sources import display_name
from .storage import require_new, write_arrays
from .torchfile import read_tensors
from .views import PreprocessSpec, view

PREPROCESS = PreprocessSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
"""ImageNet's mean and standard deviation. The paper's figures are of the centre crop at the picture's resolution."""
VIEW = "native"
DIM = 2048
_WEIGHTS = "weights.safetensors"


def import_cnndetection(file: Path, output: Path) -> None:
    """Make a detector's folder of a published network.

    Its score is the network's logit. It has no bank, hence no neighbours as evidence; it decides at score 0
    (probability 0.5).

    Args:
        file: the `.pth` file, read without PyTorch and without running anything in it.
        output: the folder to make; it holds the encoder too.

    Raises:
        OutputExistsError: `output` is there already.
        FormatError: another file.
        WeightsError: the graph cannot be written to the cache.
    """
    require_new(output)
    tensors = read_tensors(file, key="model")
    head, bias = tensors.pop("fc.weight", None), tensors.pop("fc.bias", None)
    if head is None or bias is None or head.shape != (1, DIM) or bias.shape != (1,):
        got = {"fc.weight": None if head is None else head.shape, "fc.bias": None if bias is None else bias.shape}
        raise FormatError(f"{file} holds {got}; expected the last layer of a ResNet-50: (1, {DIM}) and (1,)")
    for name, values in ({"fc.weight": head, "fc.bias": bias} | tensors).items():
        if not np.isfinite(values).all():
            raise FormatError(f"{file}: {name} has values that are not finite")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kept = {k: v.astype(np.float32) for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
        write_arrays(folder / _WEIGHTS, kept)
        entry = Entry(
            name=f"cnndetection-{sha256_of(file)[:8]}",
            title=f"ResNet-50 of Wang et al. 2020, {display_name(file.name)}",
            engine="onnx",
            recipe="resnet-safetensors",
            sha256=sha256_of(folder / _WEIGHTS),
            sources=(),
            licence="see its publisher",
            blocks=0,
            width=0,
            prefix=0,
            proj=DIM,
            preprocess=PREPROCESS,
            recipe_options={},
        )
        (folder / ENTRY_FILE).write_text(to_toml(entry, _WEIGHTS), "utf-8")
        encoder = open_backbone(folder)
        coef = head[0].astype(np.float64)
        linear_detector(entry.name, encoder, view(VIEW), coef, float(bias[0])).save(output, carry_backbone=True)
