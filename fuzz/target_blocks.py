"""The blocks of a picture by themselves: XMP, EXIF, IPTC, and texts of generators."""

from __future__ import annotations

from harness import MARK, parts, pictures
from target_containers import _XMP, findings_of
from univfd.provenance._containers import Blocks, Text, _photoshop

_TEXTS = (
    b"parameters\na fox\nNegative prompt: x\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: m",
    b'prompt\n{"1": {"class_type": "CheckpointLoader", "inputs": {"ckpt_name": "m", "text": "x"}}}',
    b'workflow\n{"nodes": [{"type": "x"}], "links": []}',
    b'sui_image_params\n{"sui_image_params": {"prompt": "x", "model": "m"}}',
    b'invokeai_metadata\n{"app_version": "3", "generation_mode": "txt2img", "model": {"name": "m"}}',
    b'Comment\n{"sampler": "k", "steps": 28, "uc": "x", "prompt": "y"}',
    b'fooocus\n{"version": "Fooocus v2", "base_model": "m"}',
    b'TC260:AIGC\n{"Label": "1", "ContentProducer": "x"}',
    b"Description\nx Job ID: 01234567-89ab-cdef-0123-456789abcdef",
    b"Dream\nx -s 10 -S 1 -W 512",
)


def seeds() -> list[bytes]:
    """One of each kind."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif.get_ifd(0x8769)[0x9286] = "M", "X1", b"UNICODE\0\0h\0i"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    iptc = b"\x1c\x02\x6e\0\x08A credit\x1c\x02\x78\0\x01c"
    joined = [MARK.join((_XMP, exif.tobytes()[6:], iptc, text)) for text in _TEXTS]
    return [*joined, MARK.join((b"", pictures()["TIFF"], b"8BIM\x04\x04\0\0\0\0\0\x04\x1c\x02\x6e\0"))]


def one(data: bytes) -> None:
    """Read each as what it is said to be."""
    xmp, exif, iptc, text = parts(data, 4)
    key, _, value = _decoded(text).partition("\n")
    findings_of(Blocks([Text(key, value, "here")], [exif], [xmp], [iptc, *_photoshop(iptc)]))


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8", "surrogatepass")  # halves of characters, as JSON may hold them
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace")
