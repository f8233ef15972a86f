"""Content Credentials (C2PA), checked by c2pa-python with every way into the network switched off.

The library ignores settings that it does not know, so a misspelt one would leave the network on: the tests look at
what it does, and the worker that this runs in may open no socket at all (`_worker`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ._metadata import source_type, unread
from .findings import C2paOutcome, Claim, Finding

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif", "HEIF": "image/heic",
        "GIF": "image/gif", "TIFF": "image/tiff"}  # fmt: skip
_OFFLINE: Mapping[str, Any] = {
    "version": 1,
    "core": {"decode_identity_assertions": False, "allowed_network_hosts": [], "allow_redirects": False,
             "max_decompressed_manifest_size_in_mb": 64},
    "verify": {"verify_after_reading": True, "verify_trust": True, "verify_timestamp_trust": True, "ocsp_fetch": False,
               "remote_manifest_fetch": False},
}  # fmt: skip
_STATES: Mapping[str, C2paOutcome] = {"Valid": "valid-unknown-signer", "Trusted": "trusted"}
_STRONGEST_FIRST: tuple[Claim, ...] = ("ai", "ai-part", "camera", "")
_DEEPEST = 20  # ingredients of ingredients
_MEANING: Mapping[str, str] = {
    "remote-only": "The file only names a URL where its Content Credentials are. It was not called, since that would "
    "tell strangers that you hold the picture; nothing in them was checked.",
    "unreadable": "There are Content Credentials, but they are damaged or of a kind that cannot be read: nothing in "
    "them was checked.",
    "invalid": "The file or its Content Credentials were changed after signing, or the signature does not hold: what "
    "they say is worth nothing.",
    "valid-unknown-signer": "File and statement are as they were signed, but nobody vouches for who the signer is.",
    "trusted": "File and statement are as they were signed, by a signer whose certificate a trust list vouches for. "
    "It is the signer's word: it proves who says it, not that it is true.",
}
_FORGERY: Mapping[str, str] = {
    "remote-only": "Anyone can write a URL into a file.",
    "unreadable": "Anyone.",
    "invalid": "Anyone.",
    "valid-unknown-signer": "Anyone, with a certificate of one's own making, under any name.",
    "trusted": "Who holds the signer's key, or gets the signing device or service to sign a false picture (such as a "
    "photograph of a screen). Anyone can remove it.",
}


def check(
    data: bytes, format: str, trust: Sequence[Mapping[str, str]], has_mark: bool
) -> tuple[C2paOutcome, list[Finding]]:
    """Check the Content Credentials of a file.

    Args:
        data: the whole file.
        format: as `univfd.sources.sniff` names it.
        trust: trust lists: `pem` (certificates), `name` (a URI), `kind` (`manifest` or `tsa`).
        has_mark: whether the file has a place where Content Credentials are kept.
    """
    import c2pa

    if format not in MIME:
        return ("unreadable", [_finding("unreadable", "", f"not read in {format} files")]) if has_mark else ("none", [])
    try:
        with c2pa.Reader(MIME[format], io.BytesIO(data), context=_context(json.dumps(list(trust)))) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return (
            ("unreadable", [_finding("unreadable", "", "no manifest where one should be")])
            if has_mark
            else ("none", [])
        )
    except c2pa.C2paError as error:
        return _failed(str(error), has_mark)
    return _outcome(store)


@lru_cache(maxsize=4)
def _context(trust: str) -> Any:
    import c2pa

    anchors = [{"trust_anchors": t["pem"], "trust_uri": t["name"], "trust_kind": t["kind"]} for t in json.loads(trust)]
    return c2pa.Context.from_dict({**_OFFLINE, "trust": {"anchors": anchors}})


def _failed(message: str, has_mark: bool) -> tuple[C2paOutcome, list[Finding]]:
    kind, _, rest = message.partition(": ")
    if kind in {"Remote", "RemoteManifest"}:
        return "remote-only", [_finding("remote-only", "", rest.rpartition(" ")[2], "XMP dcterms:provenance")]
    if has_mark:
        return "unreadable", [_finding("unreadable", "", message)]
    return "none", [unread("C2PA", f"the file's structure is damaged: {message}")]


def _outcome(store: Mapping[str, Any]) -> tuple[C2paOutcome, list[Finding]]:
    state = store.get("validation_state")
    outcome: C2paOutcome = _STATES.get(str(state), "invalid")
    manifests = _dict(store.get("manifests"))
    active = _dict(manifests.get(str(store.get("active_manifest"))))
    signature = _dict(active.get("signature_info"))
    codes = _dict(_dict(store.get("validation_results")).get("activeManifest"))
    problems = sorted({str(s.get("code")) for s in _dicts(codes.get("failure"))} - {"signingCredential.untrusted"})
    anchored = [
        str(s.get("explanation")) for s in _dicts(codes.get("success")) if s.get("code") == "signingCredential.trusted"
    ]
    kinds = list(dict.fromkeys(_source_types(manifests, str(store.get("active_manifest")))))
    said = {found[0] for k in kinds if (found := source_type(k))}
    claim: Claim = next((c for c in _STRONGEST_FIRST if c in said), "")
    facts = {
        "signer": " / ".join(str(signature[k]) for k in ("issuer", "common_name") if signature.get(k)),
        "signed": str(signature.get("time") or ""),
        "made with": _made_with(active),
        "source types": ", ".join(k.rpartition("/")[2] for k in kinds),
        "actions": ", ".join(dict.fromkeys(str(a.get("action")) for a in _actions(active))),
        "problems": ", ".join(problems),
        "trust list": anchored[0].partition("[")[2].partition("]")[0] if anchored else "",
    }
    by = facts["signer"] or "no named signer"
    words = f"signed by {by}" + (f"; declares {', '.join(_words(kinds))}" if kinds else "; declares no source type")
    if outcome == "invalid":
        words += f"; {facts['problems'] or 'not valid'}"
    kept = {key: value[:500] for key, value in facts.items() if value}
    return outcome, [_finding(outcome, claim, words, details=kept)]


def _words(kinds: Sequence[str]) -> list[str]:
    return [found[1] if (found := source_type(k)) else k[:100] for k in kinds]


def _dict(value: Any) -> dict[str, Any]:
    """The value where it is an object: what a file's maker wrote may be anything."""
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _made_with(manifest: Mapping[str, Any]) -> str:
    infos = _dicts(manifest.get("claim_generator_info"))
    named = [" ".join(str(i[k]) for k in ("name", "version") if i.get(k)) for i in infos]
    return ", ".join(named) or str(manifest.get("claim_generator") or "")


def _actions(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for assertion in _dicts(manifest.get("assertions")):
        if str(assertion.get("label")).startswith("c2pa.actions"):
            yield from _dicts(_dict(assertion.get("data")).get("actions"))


def _source_types(manifests: Mapping[str, Any], label: str, depth: int = 0) -> Iterator[str]:
    """Source types of a manifest's actions and, below it, of the pictures it was made from."""
    manifest = manifests.get(label)
    if not isinstance(manifest, dict) or depth > _DEEPEST:
        return
    for action in _actions(manifest):
        if isinstance(kind := action.get("digitalSourceType"), str):
            yield kind
    for ingredient in _dicts(manifest.get("ingredients")):
        below = _source_types(manifests, str(ingredient.get("active_manifest")), depth + 1)
        for kind in below:
            known = source_type(kind)
            placed = ingredient.get("relationship") == "componentOf" and known and known[0] == "ai"
            yield kind.replace("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia") if placed else kind


def _finding(
    outcome: str, claim: Claim, words: str, where: str = "C2PA manifest", details: Mapping[str, str] | None = None
) -> Finding:
    return Finding(
        "c2pa", claim, f"Content Credentials: {words[:500]}", where, _MEANING[outcome], _FORGERY[outcome], details or {}
    )
