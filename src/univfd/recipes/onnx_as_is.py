"""An ONNX image encoder that somebody exported -> the prepared form, its computations left as they are.

What an export cannot say (where the embedding is, what the blocks are called) comes from `recipe_options`; what it
can say is checked here, once, by reading the graph and by running it: an encoder whose answer for one crop depends on
the other crops of the batch is refused, since its vectors would mean something else in every run.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..catalogue import Entry
from ..errors import FormatError
from ._graph import rename, save, tensor_names, tensors, weights_of

_INT64_MAX = np.iinfo(np.int64).max
_OPTIONS = {"input", "output", "tokens", "block", "first_block", "last_block"}
_TOKENS = ("cls", "mean")
_OURS, _OWN = re.compile(r"(pixels|proj|tokens)|(block|cls|mean|patches|univfd)\..*", re.DOTALL), "of the file: "
# Between a batch and its crops one by one; float32 sums in another order stay far below, quantisation far above.
_SAME_ROW = 1e-3


def onnx_as_is(published: Path, entry: Entry, out: Path) -> None:
    """The recipe.

    Args:
        published: the `.onnx` file, in one piece.
        entry: its `recipe_options`, all of which may be left out: `input`, `output` (names of tensors; needed where
            the graph has several), `tokens` (`cls` or `mean`: how an output `(N, T, W)` becomes one vector), `block`
            (name of a block's output with `{i}` for its number), `first_block` (number of the first, default 0),
            `last_block` (name of the last one's output, where it breaks the pattern).
        out: folder to write into.

    Raises:
        FormatError: not such an encoder, or not the one that the entry describes; says what was found.
    """
    unknown = set(entry.recipe_options) - _OPTIONS
    if unknown:
        raise FormatError(f"{entry.name}: unknown recipe_options {sorted(unknown)}; known: {sorted(_OPTIONS)}")
    for name, value in entry.recipe_options.items():
        if type(value) is not (int if name == "first_block" else str):
            expected = "a whole number" if name == "first_block" else "text"
            raise FormatError(f"{entry.name}: recipe_options.{name} = {value!r:.80}; expected {expected}")
    model = _read(published, entry)
    tokens = entry.recipe_options.get("tokens")
    output = _output(model.graph, entry)
    # The last block's output may be the tokens themselves: it keeps the name that the taps need.
    names = {output: "tokens" if tokens else "proj"} | _blocks(model.graph, entry) | _input(model.graph, entry)
    rename(model.graph, _aside(model.graph) | names)
    if tokens:
        _pool(model.graph, names[output], tokens, entry)
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.append(helper.make_tensor_value_info("proj", TensorProto.FLOAT, ["batch", entry.proj]))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise FormatError(f"{entry.name}: {published.name} is no valid graph: {str(error)[:300]}") from error
    _try(model, entry)
    save(model, out)


def _aside(graph: onnx.GraphProto) -> dict[str, str]:
    """New names for tensors of the file that are called what the prepared form calls its own."""
    there = tensor_names(graph)
    taken = sorted(name for name in there if _OURS.fullmatch(name))
    return {name: f"{_OWN}{name}{'_' * sum(n.startswith(_OWN + name) for n in there)}" for name in taken}


def _read(published: Path, entry: Entry) -> onnx.ModelProto:
    try:
        model = onnx.load(str(published), load_external_data=False)
    except Exception as error:  # protobuf's own type, which differs between its versions
        raise FormatError(f"{entry.name}: {published.name} is not an ONNX file: {error}") from error
    held = chain(weights_of(model.graph), *(tensors(f.node) for f in model.functions))
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in held):
        raise FormatError(
            f"{entry.name}: the weights of {published.name} are in a second file, which its checksum would not cover. "
            'Save it in one piece: onnx.save(onnx.load("encoder.onnx"), "one.onnx")'
        )
    quantised = sorted({n.op_type for n in model.graph.node if n.op_type.startswith("DynamicQuantize")})
    if quantised:
        raise FormatError(
            f"{entry.name}: {published.name} quantises its activations on the fly ({', '.join(quantised)}): their 8 "
            "bits are chosen per batch, so the vector of a crop depends on its neighbours. Give the float32 export"
        )
    return model


def _input(graph: onnx.GraphProto, entry: Entry) -> dict[str, str]:
    """The pixels' tensor, checked."""
    constants = {i.name for i in graph.initializer}  # old exports list them among the inputs
    inputs = {i.name: i for i in graph.input if i.name not in constants}
    name = _chosen("input", inputs, entry)
    if len(inputs) > 1:
        raise FormatError(f"{entry.name}: the graph needs {', '.join(inputs)}; expected the pixels alone")
    kind = inputs[name].type.tensor_type
    size = entry.preprocess.size
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    wanted = f"expected (N, 3, {size}, {size}) float32"
    if kind.elem_type != TensorProto.FLOAT:
        got = TensorProto.DataType.Name(kind.elem_type)
        raise FormatError(f"{entry.name}: the input {name!r} is of type {got}; {wanted}")
    if len(shape) != 4:
        raise FormatError(f"{entry.name}: the input {name!r} has rank {len(shape)}, shape {shape}; {wanted}")
    if isinstance(shape[0], int):
        raise FormatError(
            f"{entry.name}: the input {name!r} takes batches of {shape[0]} alone; {wanted}, N free. Export it with a "
            "dynamic first axis (torch.onnx.export: dynamic_axes or dynamic_shapes)"
        )
    if any(isinstance(got, int) and got != side for got, side in zip(shape[1:], (3, size, size), strict=True)):
        raise FormatError(f"{entry.name}: the input {name!r} has shape {shape}; {wanted}")
    return {name: "pixels"}


def _output(graph: onnx.GraphProto, entry: Entry) -> str:
    tokens = entry.recipe_options.get("tokens")
    if tokens is not None and tokens not in _TOKENS:
        raise FormatError(f"{entry.name}: tokens = {tokens!r}; expected {' or '.join(_TOKENS)}")
    return _chosen("output", {o.name: o for o in graph.output}, entry)


def _chosen(what: str, known: dict[str, Any], entry: Entry) -> str:
    """The tensor that the entry names, or the only one."""
    name = entry.recipe_options.get(what)
    if name is None and len(known) == 1:
        return next(iter(known))
    if name not in known:
        got = f"has no {what} {name!r}" if name else f"has {len(known)} {what}s: set recipe_options.{what}"
        raise FormatError(f"{entry.name}: the graph {got}; its {what}s: {', '.join(known)}")
    return str(name)


def _blocks(graph: onnx.GraphProto, entry: Entry) -> dict[str, str]:
    """Old and new names of the blocks' outputs."""
    options = entry.recipe_options
    if entry.blocks and "block" not in options:
        raise FormatError(f"{entry.name}: blocks = {entry.blocks} needs recipe_options.block, or set blocks = 0")
    first = options.get("first_block", 0)
    old = [str(options["block"]).replace("{i}", str(first + i)) for i in range(entry.blocks)]
    if old and "last_block" in options:
        old[-1] = options["last_block"]
    made = {t for n in graph.node for t in n.output}
    absent = [t for t in old if t not in made]
    if absent or len(set(old)) < len(old):
        raise FormatError(f"{entry.name}: the graph has no block output called {(absent or old)[0]!r} of its own")
    return {t: f"block.{i + 1}" for i, t in enumerate(old)}


def _pool(graph: onnx.GraphProto, tokens: str, how: str, entry: Entry) -> None:
    """Add the nodes `(N, T, W)` -> `proj` `(N, W)`; only operators that mean the same in every opset."""
    ints = {"univfd.first": np.array(0), "univfd.one": np.array([1])}
    ints |= {"univfd.prefix": np.array([entry.prefix]), "univfd.end": np.array([_INT64_MAX])}
    if how == "cls":
        ints = {"univfd.first": ints["univfd.first"]}
        nodes = [helper.make_node("Gather", [tokens, "univfd.first"], ["proj"], axis=1)]
    else:
        del ints["univfd.first"]
        bounds = ["univfd.prefix", "univfd.end", "univfd.one"]
        nodes = [
            helper.make_node("Slice", [tokens, *bounds], ["univfd.patches"]),
            helper.make_node("Transpose", ["univfd.patches"], ["univfd.channels"], perm=[0, 2, 1]),
            helper.make_node("GlobalAveragePool", ["univfd.channels"], ["univfd.mean"]),
            helper.make_node("Flatten", ["univfd.mean"], ["proj"], axis=1),
        ]
    graph.initializer.extend(numpy_helper.from_array(v.astype(np.int64), name) for name, v in ints.items())
    graph.node.extend(nodes)


def _try(model: onnx.ModelProto, entry: Entry) -> None:
    """Run two crops together and apart: shapes, and that a row depends on its crop alone."""
    size = entry.preprocess.size
    pixels = np.random.default_rng(0).standard_normal((2, 3, size, size), dtype=np.float32)
    blocks = [f"block.{i + 1}" for i in range(entry.blocks)]
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    trial.graph.output.extend(helper.make_tensor_value_info(b, TensorProto.FLOAT, None) for b in blocks)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(trial.SerializeToString(), options, providers=["CPUExecutionProvider"])
        together = session.run(None, {"pixels": pixels})
        alone = [session.run(["proj"], {"pixels": pixels[i : i + 1]})[0] for i in range(2)]
    except Exception as error:  # ONNX Runtime raises types of its own
        raise FormatError(f"{entry.name}: the graph does not run on two crops: {str(error)[:300]}") from error
    shapes = dict(zip(["proj", *blocks], [t.shape for t in together], strict=True))
    if shapes["proj"] != (2, entry.proj):
        hint = '; an output of tokens needs recipe_options.tokens = "cls" or "mean"' if len(shapes["proj"]) == 3 else ""
        raise FormatError(f"{entry.name}: the output is {shapes['proj']} for 2 crops; expected (2, {entry.proj}){hint}")
    for name in blocks:
        shape = shapes[name]
        if len(shape) != 3 or shape[0] != 2 or shape[1] <= entry.prefix or shape[2] != entry.width:
            raise FormatError(f"{entry.name}: {name} is {shape} for 2 crops; expected (2, tokens, {entry.width})")
    rows = np.concatenate(alone)
    if not np.abs(together[0] - rows).max() <= _SAME_ROW * np.abs(rows).max():
        raise FormatError(
            f"{entry.name}: the vector of a crop depends on the other crops of its batch (or is not finite); such an "
            "encoder cannot be used"
        )


PLUGIN = onnx_as_is
