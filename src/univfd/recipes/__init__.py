"""How a published weights file becomes the prepared graph that the ONNX engine runs.

A recipe is `(published: Path, entry: Entry, out: Path) -> None`. It writes `graph.onnx` and `weights.bin` into `out`:
float32, one input `pixels` `(N, 3, S, S)` (normalised), the residual stream after block i as the tensor `block.i`
`(N, T, W)` for i from 1, and the projected embedding `proj` `(N, P)` as the only graph output.
"""
