"""What an image file looks like from outside: its name's ending and its first bytes."""

from __future__ import annotations

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".heic",
        ".heif",
        ".hif",
        ".mpo",
    ]
)
HEAD = 16
"""First bytes that `sniff` wants."""
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)


def sniff(head: bytes) -> str:
    """The image format that the first 12 bytes or more speak of (`JPEG`, `WEBP` ...), or an empty string."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "")
    if head[:2] == b"BM" and b"\0" in head[2:14]:  # its numbers have zero bytes; a text about a BMW has none
        return "BMP"
    return next((name for start, name in _MAGIC.items() if head.startswith(start)), "")
