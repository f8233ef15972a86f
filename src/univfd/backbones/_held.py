"""Blocks that only the class token goes through, while the patch tokens stay what they were.

`cls.b@k` is the class token after block b whose blocks from k + 2 on read the patch tokens (and registers) as they were
after block k. Behind block k that costs next to nothing where attention is written as `_one_query` knows it.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ..errors import FormatError
from ._reads import tensors_read


def hold(graph: onnx.GraphProto, block: int, held: int, index: str, rest: tuple[str, str, str]) -> str:
    """Add copies of the blocks up to one that read held patches, where they are not there yet.

    Args:
        graph: a prepared graph; nodes are added to its end.
        block: counted from 1, more than `held` + 1.
        held: the block whose patch tokens are read.
        index: the tensor `[0]`.
        rest: the tensors `[1]`, `[end]`, `[1]`: start, end and axis of all tokens but the first.

    Returns:
        The name of the block's output, `(N, T, W)`, of which only the class token means something.

    Raises:
        FormatError: a block reads more than the tokens of the block before it.
    """
    end = f"block.{block}@{held}"
    if any(end in node.output for node in graph.node):
        return end
    start = f"block.{block - 1}"
    before = start if block == held + 2 else hold(graph, block - 1, held, index, rest)
    first, others, tokens = f"{end}.class", f"{end}.patches", f"{end}.tokens"
    inside = _between(graph, start, f"block.{block}")
    names = {o: f"{o}@{held}" for node in inside for o in node.output if o} | {start: tokens}
    graph.node.append(helper.make_node("Gather", [before, index], [first], axis=1))
    graph.node.append(helper.make_node("Slice", [f"block.{held}", *rest], [others]))
    graph.node.append(helper.make_node("Concat", [first, others], [tokens], axis=1))
    for node in inside:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}@{held}" if node.name else ""
        copy.input[:] = [names.get(t, t) for t in node.input]
        copy.output[:] = [names.get(t, t) for t in node.output]
        graph.node.append(copy)
    return end


def _between(graph: onnx.GraphProto, start: str, end: str) -> list[onnx.NodeProto]:
    """The nodes that make one tensor of tokens out of another, in order.

    Raises:
        FormatError: the one does not follow from the other alone, or by graphs inside of nodes.
    """
    reached, past, behind = {start}, {i.name for i in graph.input}, []
    for node in graph.node:
        reads = {t for t in tensors_read(node) if t}
        if reads & reached:
            reached.update(filter(None, node.output))
            behind.append(node)
        elif reads & past and node.op_type != "Shape":  # how many pictures there are may be read anywhere
            past.update(o for o in node.output if o not in {"", start})
    needed, inside = {end}, []
    for node in reversed(behind):
        if needed.intersection(node.output):
            needed.update(tensors_read(node))
            inside.append(node)
    nested = any(a.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS} for n in inside for a in n.attribute)
    if end not in reached or needed & past - {start} or nested:
        raise FormatError(
            f"patch tokens cannot stand still in this graph: {end} is not made of {start} alone. Take taps without @"
        )
    return inside[::-1]
