"""A trained network -> a detector's folder: the network as a backbone inside it, its last layer as the classifier."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import registry
from ..backbones import open_backbone
from ..catalogue import ENTRY_FILE, Entry, to_toml
from ..detector import Detector, linear_detector
from ..downloads import sha256_of
from ..sources import display_name
from ..storage import write_arrays
from ..views import view
from . import RECORD
from .networks import Network


def save(network: Network, output: Path, *, view_name: str, record: Mapping[str, Any]) -> Detector:
    """Write the detector; its score is the network's logit.

    Args:
        network: trained; on the CPU.
        output: folder to make.
        view_name: how the detector cuts crops.
        record: what is known about the training, laid beside the encoder.

    Raises:
        OutputExistsError: `output` is there already.
        MissingExtraError: PyTorch's exporter needs a package that is not installed (networks of timm alone).
        FormatError: the exported graph cannot be used; says why.
    """
    network.whole().eval()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = _weights(network, folder)
        digest = sha256_of(folder / file)
        entry = Entry(
            name=f"{network.name}-{digest[:8]}".replace(":", "-"),
            title=network.title,
            engine="onnx",
            recipe=network.recipe or "onnx-as-is",
            sha256=digest,
            sources=(),
            licence="yours",
            blocks=network.blocks,
            width=network.width,
            prefix=network.prefix,
            proj=network.head.in_features,
            preprocess=network.preprocess,
            recipe_options=network.options,
        )
        (folder / ENTRY_FILE).write_text(to_toml(entry, file), "utf-8")
        (folder / RECORD).write_text(json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n", "utf-8")
        coef = network.head.weight.detach()[0].double().numpy()
        made = linear_detector(
            display_name(output.name),
            open_backbone(folder),
            view(view_name),
            coef,
            float(network.head.bias.detach()[0]),
        )
        made.save(output, carry_backbone=True)
    return made


def _weights(network: Network, folder: Path) -> str:
    """Write what the recipe reads; the file's name."""
    if not network.recipe:
        export_onnx(network, folder / "encoder.onnx")
        return "encoder.onnx"
    state = network.encoder.state_dict()
    tensors = {k: v.float().numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    write_arrays(folder / "weights.safetensors", tensors)
    return "weights.safetensors"


def export_onnx(network: Network, path: Path) -> None:
    """The encoder as a graph, by PyTorch's exporter, with a free number of crops.

    Raises:
        MissingExtraError: the exporter needs a package that is not installed.
    """
    size = network.preprocess.size
    example = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, size, size), np.float32))
    said = logging.getLogger("torch.onnx")
    level = said.level
    said.setLevel(logging.ERROR)  # it counts what else is not installed
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.encoder, (example,), str(path), input_names=["pixels"], output_names=["proj"], dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
            )  # fmt: skip
    except ModuleNotFoundError as error:
        raise registry.missing_extra("exporting this network", error) from error
    finally:
        said.setLevel(level)
