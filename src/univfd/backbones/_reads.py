"""What a node of a graph reads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node needs, those of the branches and loop bodies inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from tensors_read(inner)
        yield from (o.name for o in attribute.g.output)
