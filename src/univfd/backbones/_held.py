"""Blocks that only the class token goes through, while the patch tokens stay what they were.

`cls.b@k` is the class token after block b whose blocks from k + 2 on read the patch tokens after block k, not those
that the blocks between would have made of them. Behind block k that costs next to nothing (`_one_query`).
"""

from __future__ import annotations

import onnx
from onnx import helper


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
    """
    end = f"block.{block}@{held}"
    if any(end in node.output for node in graph.node):
        return end
    start = f"block.{block - 1}"
    before = start if block == held + 2 else hold(graph, block - 1, held, index, rest)
    first, others, tokens = f"{end}.class", f"{end}.patches", f"{end}.tokens"
    inside = _between(graph, start, end.partition("@")[0])
    names = {o: f"{o}@{held}" for node in inside for o in node.output} | {start: tokens}
    graph.node.append(helper.make_node("Gather", [before, index], [first], axis=1))
    graph.node.append(helper.make_node("Slice", [f"block.{held}", *rest], [others]))
    graph.node.append(helper.make_node("Concat", [first, others], [tokens], axis=1))
    for node in inside:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}@{held}" if node.name else ""
        copy.input[:] = [names.get(t, t) for t in node.input]
        copy.output[:] = [names[t] for t in node.output]
        graph.node.append(copy)
    return end


def _between(graph: onnx.GraphProto, start: str, end: str) -> list[onnx.NodeProto]:
    """The nodes on the ways from one tensor to another, in order."""
    reached, behind = {start}, []
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            behind.append(node)
    needed, inside = {end}, []
    for node in reversed(behind):
        if needed.intersection(node.output):
            needed.update(node.input)
            inside.append(node)
    return inside[::-1]
