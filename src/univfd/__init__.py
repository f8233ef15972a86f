"""Open detector of AI-generated images: frozen CLIP features, nearest neighbours or one linear layer.

    import univfd

    detector = univfd.load()
    for item in detector.detect(["photo.jpg", "folder/"]):  # a Verdict or a Failure for each image
        print(item.to_dict())

Names are loaded when first used: `import univfd` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .backbones import open_backbone
    from .bank import FeatureBank
    from .calibration import Calibration, calibrate
    from .classifiers.knn import NearestNeighbor
    from .classifiers.linear import LinearProbe
    from .classifiers.ridge import RidgeProbe
    from .classifiers.svm import SupportVectorProbe
    from .detector import Detector, load
    from .embedding import embed_images
    from .errors import UnivFDError
    from .heatmap import heat_map
    from .official import official
    from .perturbations import perturbation
    from .types import Embeddings, Failure, FeatureSpace, ImageRef, Label, Neighbor, Sample, Verdict
    from .views import view
    from .writers import to_arrow

# ONNX Runtime's own wheels report their use to Microsoft unless this is there before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Calibration": "calibration",
    "Detector": "detector",
    "Embeddings": "types",
    "Failure": "types",
    "FeatureBank": "bank",
    "FeatureSpace": "types",
    "ImageRef": "types",
    "Label": "types",
    "LinearProbe": "classifiers.linear",
    "NearestNeighbor": "classifiers.knn",
    "Neighbor": "types",
    "RidgeProbe": "classifiers.ridge",
    "SupportVectorProbe": "classifiers.svm",
    "Sample": "types",
    "UnivFDError": "errors",
    "Verdict": "types",
    "calibrate": "calibration",
    "embed_images": "embedding",
    "heat_map": "heatmap",
    "load": "detector",
    "official": "official",
    "open_backbone": "backbones",
    "perturbation": "perturbations",
    "to_arrow": "writers",
    "view": "views",
}

__all__ = [
    "Calibration",
    "Detector",
    "Embeddings",
    "Failure",
    "FeatureBank",
    "FeatureSpace",
    "ImageRef",
    "Label",
    "LinearProbe",
    "NearestNeighbor",
    "Neighbor",
    "RidgeProbe",
    "Sample",
    "SupportVectorProbe",
    "UnivFDError",
    "Verdict",
    "__version__",
    "calibrate",
    "embed_images",
    "heat_map",
    "load",
    "official",
    "open_backbone",
    "perturbation",
    "to_arrow",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'univfd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
