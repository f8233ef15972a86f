"""Files that say something of their origin, made in the test run: signed, with generators' texts, watermarked."""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import dataclass
from typing import Any

import c2pa
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image, PngImagePlugin

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
AI = TYPES + "trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Signers:
    """A root of our own and a signer that it vouches for."""

    root: str
    chain: bytes
    key: bytes

    def sign(
        self, data: bytes, format: str, source_type: str = AI, *, remote: str = "", parent: bytes = b"", extra: str = ""
    ) -> bytes:
        action: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": source_type}
        if parent:
            action = {"action": "c2pa.opened"}
        actions = {"label": "c2pa.actions", "data": {"actions": [action] if source_type or parent else []}}
        manifest = {
            "claim_generator_info": [{"name": "test generator", "version": "1"}],
            "title": "test",
            "assertions": [actions] if source_type or parent else [],
        }
        quiet = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
        signer = c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, self.chain, self.key, None)  # type: ignore[arg-type]
        )
        with c2pa.Builder(manifest, c2pa.Context.from_dict(quiet)) as builder:
            if remote:
                builder.set_no_embed()
                builder.set_remote_url(remote)
            if parent:
                ingredient = {"title": "parent", "relationship": extra or "parentOf"}
                builder.add_ingredient(json.dumps(ingredient), MIME[format], io.BytesIO(parent))
            signed = io.BytesIO()
            builder.sign(signer, MIME[format], io.BytesIO(data), signed)
        return signed.getvalue()


_FAR = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)


def make_signers(ends: datetime.datetime = _FAR) -> Signers:
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Test root", root_key, None, root_key, True, _FAR)
    leaf = _certificate("Test signer", key, root, root_key, False, ends)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Signers(root.public_bytes(pem).decode(), leaf.public_bytes(pem) + root.public_bytes(pem), private)


def _certificate(
    name: str, key: Any, issuer: x509.Certificate | None, issuer_key: Any, ca: bool, ends: datetime.datetime
) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test Press")]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, ca, ca, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuer_key, hashes.SHA256())


def plain(format: str = "PNG", **options: Any) -> bytes:
    ramp = np.linspace(40, 200, 256)
    pixels = np.stack(
        [ramp[None, :] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None, :], 0 * ramp + ramp[:, None]], 2
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format, **options)
    return buffer.getvalue()


_COMFY = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox"}},
}
_NOVEL = {"prompt": "a red fox", "steps": 28, "sampler": "k_euler", "seed": 1, "uc": "blurry", "scale": 5.0}
_INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a red fox",
    "model": {"name": "dream"},
}
_JOB = "a red fox --v 6.0 Job ID: 01234567-89ab-cdef-0123-456789abcdef"
_LABEL = {"Label": "1", "ContentProducer": "001191610133596325", "ProduceID": "P1", "ReservedCode1": ""}

# Generator -> (name of its PNG text, the text, a word of the finding, a detail that must be read).
GENERATORS: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    "A1111": (
        "parameters",
        "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: dream",
        "AUTOMATIC1111",
        ("model", "dream"),
    ),
    "ComfyUI prompt": ("prompt", json.dumps(_COMFY), "ComfyUI", ("model", "dream.safetensors")),
    "ComfyUI workflow": (
        "workflow",
        json.dumps({"last_node_id": 9, "nodes": [{"id": 3, "type": "KSampler"}], "links": [[1, 4, 0, 3, 0, "MODEL"]]}),
        "ComfyUI",
        ("nodes", "1"),
    ),
    "InvokeAI": ("invokeai_metadata", json.dumps(_INVOKE), "InvokeAI", ("model", "dream")),
    "NovelAI": ("Comment", json.dumps(_NOVEL), "NovelAI", ("prompt", "a red fox")),
    "SwarmUI": (
        "parameters",
        json.dumps({"sui_image_params": {"prompt": "a red fox", "model": "dream", "swarm_version": "0.9"}}, indent=1),
        "SwarmUI",
        ("model", "dream"),
    ),
    "Midjourney": ("Description", _JOB, "Midjourney", ("prompt", _JOB)),
    "AIGC label": ("AIGC", json.dumps(_LABEL), "AIGC", ("ContentProducer", "001191610133596325")),
}


def with_text(format: str, key: str, text: str) -> bytes:
    """A file with a generator's text where generators and converters put it: PNG text, else EXIF UserComment."""
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text(key, text)
        return plain(format, pnginfo=info)
    if key == "AIGC":
        text = json.dumps({"AIGC": json.loads(text)})
    return plain(format, exif=exif({0x9286: b"UNICODE\0" + text.encode("utf-16-be")}))


def exif(tags: dict[int, Any]) -> bytes:
    """EXIF with these tags; those of the camera's settings go where they belong."""
    block = Image.Exif()
    for tag, value in tags.items():
        (block.get_ifd(0x8769) if tag in {0x9286, 0x829A, 0x829D, 0x8827, 0x9003} else block)[tag] = value
    return block.tobytes()


def xmp(properties: str) -> bytes:
    """An XMP packet around property elements or, where it begins with a space, attributes."""
    spaces = (
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/"'
    )
    attributes, elements = (properties, "") if properties.startswith(" ") else ("", properties)
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {spaces}{attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def with_xmp(format: str, packet: bytes) -> bytes:
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        return plain(format, pnginfo=info)
    return plain(format, xmp=packet)


def watermarked(rgb: np.ndarray, message: str, *, floating: bool, swapped: bool) -> np.ndarray:
    """The embedding by the method's description, block by block, pixel by pixel; its reader shares no code with it."""
    first, last = (2, 0) if swapped else (0, 2)
    red, green, blue = (rgb[..., i].astype(np.float64) for i in (first, 1, last))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = 0.492 * (blue - luma), 0.877 * (red - luma)
    u += 0.5 if floating else 128.0
    if not floating:
        luma, u = np.round(luma), np.round(u)
    n = 0
    for y in range(0, rgb.shape[0] // 8 * 8, 8):
        for x in range(0, rgb.shape[1] // 8 * 8, 8):
            low = np.array(
                [
                    [u[y + 2 * i : y + 2 * i + 2, x + 2 * j : x + 2 * j + 2].sum() / 2 for j in range(4)]
                    for i in range(4)
                ]
            )
            best = max(range(1, 16), key=lambda k: abs(low.flat[k]))
            value = low.flat[best]
            new = (abs(value) // 36 + 0.25 + 0.5 * int(message[n % len(message)])) * 36 * (1 if value >= 0 else -1)
            i, j = divmod(best, 4)
            u[y + 2 * i : y + 2 * i + 2, x + 2 * j : x + 2 * j + 2] += (new - value) / 2
            n += 1
    u -= 0.5 if floating else 128.0
    blue, red = u / 0.492 + luma, v / 0.877 + luma
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    planes = (blue, green, red) if swapped else (red, green, blue)
    return np.clip(np.round(np.stack(planes, 2)), 0, 255).astype(np.uint8)
