"""What the recipes share: renaming tensors and saving a graph beside its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from ..weights import GRAPH, WEIGHTS

_INLINE_BYTES = 1024


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of a graph (its inputs, outputs, weights and what flows between) new names, in place.

    Graphs inside of nodes (`If`, `Loop`) see the tensors around them, so they are given the same names.
    """
    for node in graph.node:
        node.input[:] = [names.get(t, t) for t in node.input]
        node.output[:] = [names.get(t, t) for t in node.output]
        for inner in subgraphs(node):
            rename(inner, names)
    sparse = [each.values for each in graph.sparse_initializer]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info, *sparse):
        value.name = names.get(value.name, value.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors of a graph and of the graphs inside of its nodes."""
    found = {t for node in graph.node for t in (*node.input, *node.output)}
    found |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    found |= {each.values.name for each in graph.sparse_initializer}
    return found.union(*(tensor_names(inner) for node in graph.node for inner in subgraphs(node)))


def tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """The values that nodes hold themselves (`Constant`), and those of the graphs inside of them."""
    for node in nodes:
        for a in node.attribute:
            yield from ([a.t] if a.HasField("t") else [])
            yield from a.tensors
            for sparse in (*([a.sparse_tensor] if a.HasField("sparse_tensor") else []), *a.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for inner in subgraphs(node):
            yield from weights_of(inner)


def weights_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All values that a graph holds, wherever."""
    yield from graph.initializer
    for each in graph.sparse_initializer:
        yield from (each.values, each.indices)
    yield from tensors(graph.node)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside of a node."""
    return [inner for a in node.attribute for inner in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def save(model: onnx.ModelProto, out: Path) -> None:
    """Write `graph.onnx` and, apart, `weights.bin`, which the engine maps into memory instead of reading it."""
    onnx.save_model(
        model,
        str(out / GRAPH),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS,
        size_threshold=_INLINE_BYTES,
    )
    (out / WEIGHTS).touch()  # a graph whose tensors are all small has none apart
    (out / WEIGHTS).chmod(0o644)
