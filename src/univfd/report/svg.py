"""A drawing of matplotlib as SVG to be put into a page: only shapes and text, in the page's own colours and fonts.

What matplotlib writes is parsed and written anew with nothing but the elements and attributes listed here, so that
whatever stands in a name is text and stays text, nothing points outside, and two drawings never share an id.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#000001", "#000002", "#000003"
"""Stand-ins for the page's colours, which differ between light and dark: text and axes, grids, the background."""
SERIES = tuple(f"#00001{i}" for i in range(8))
"""Likewise for lines; eight that differ for the colour-blind too."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and scaled
    "svg.hashsalt": "univfd",  # the same drawing, the same bytes
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.0,
    "axes.titlecolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
}

_VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"} | {c: f"--series-{i}" for i, c in enumerate(SERIES)}
_ELEMENTS = {"svg", "g", "defs", "clipPath", "path", "rect", "circle", "use", "text", "tspan"}
_ATTRIBUTES = {
    "d",
    "x",
    "y",
    "width",
    "height",
    "r",
    "cx",
    "cy",
    "transform",
    "style",
    "clip-path",
    "id",
    "href",
    "viewBox",
}
_PROPERTIES = {
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity", "font-size", "text-anchor",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.\d+")
_URL = re.compile(r"url\(#([A-Za-z0-9_.-]+)\)")
_VALUE = re.compile(r"[#A-Za-z0-9 .,-]+")  # of a property: a colour, numbers, a word; never url()


def inline(figure: Figure, *, prefix: str, title: str, label: str) -> str:
    """A drawing as an `<svg>` element.

    Args:
        figure: drawn under `matplotlib.rc_context(STYLE)`.
        prefix: of its ids; different for each drawing of a page.
        title: its name.
        label: what it shows, for those who cannot see it.
    """
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = _clean(ElementTree.fromstring(out.getvalue()), prefix)
    assert root is not None  # matplotlib's root is an <svg>
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{prefix}title", "aria-describedby": f"{prefix}desc"}
    for i, (name, text) in enumerate((("title", title), ("desc", label))):
        said = ElementTree.Element(name, {"id": f"{prefix}{name}"})
        said.text = text
        root.insert(i, said)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _clean(element: ElementTree.Element, prefix: str) -> ElementTree.Element | None:
    tag = _local(element.tag)
    if tag not in _ELEMENTS:
        return None
    clean = ElementTree.Element(tag)
    for key, value in element.attrib.items():
        _add(clean, _local(key), value, prefix)
    if tag in {"text", "tspan"}:
        clean.text = element.text
    clean.extend(child for e in element if (child := _clean(e, prefix)) is not None)
    if tag == "g" and not len(clean):
        return None
    return clean


def _add(clean: ElementTree.Element, name: str, value: str, prefix: str) -> None:
    """Set an attribute, if it is one that is wanted."""
    if name not in _ATTRIBUTES or (name == "id" and clean.tag == "g"):  # nothing refers to a group
        return
    if name == "id":
        value = prefix + value
    elif name == "href":
        if not value.startswith("#"):
            return
        value = f"#{prefix}{value[1:]}"
    elif name == "clip-path":
        if not (found := _URL.fullmatch(value)):
            return
        value = f"url(#{prefix}{found[1]})"
    elif name == "style":
        value = _style(value)
    elif name in {"d", "transform", "x", "y"}:
        value = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value.replace("\n", " ")).strip()
    if value:
        clean.set(name, value)


def _style(text: str) -> str:
    """The properties that are wanted; stand-in colours become the page's, fonts are left to the page."""
    kept = []
    for part in text.split(";"):
        name, _, value = (p.strip() for p in part.partition(":"))
        if name == "font" and (size := re.match(r"(?:[a-z0-9]+ )*?([\d.]+)px", value)):
            name, value = "font-size", f"{size[1]}px"
        if name in _PROPERTIES and _VALUE.fullmatch(value):
            variable = _VARIABLES.get(value)
            kept.append(f"{name}:var({variable})" if variable else f"{name}:{value}")
    return ";".join(kept)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
