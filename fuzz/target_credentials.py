"""What c2pa-python says of a file, which is JSON whose contents the file's maker chose."""

from __future__ import annotations

import json

from harness import as_json
from univfd.provenance._credentials import _failed, _outcome
from univfd.provenance._inspect import answer


def seeds() -> list[bytes]:
    """A store as the library gives it."""
    action = {"action": "c2pa.created", "digitalSourceType": "http://x/digitalsourcetype/trainedAlgorithmicMedia"}
    manifest = {
        "claim_generator_info": [{"name": "g", "version": "1"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
        "ingredients": [{"relationship": "componentOf", "active_manifest": "a"}],
        "signature_info": {"issuer": "i", "common_name": "c", "time": "t"},
    }
    results = {"activeManifest": {"failure": [{"code": "x"}], "success": [{"code": "signingCredential.trusted"}]}}
    store = {"validation_state": "Valid", "active_manifest": "a", "manifests": {"a": manifest}}
    return [as_json(store | {"validation_results": results}), as_json(store), b"{}", b"Remote: http://x"]


def one(data: bytes) -> None:
    """Read it as a store, and as a message of an error."""
    outcome, findings = _failed(data.decode("utf-8", "replace"), bool(len(data) % 2))
    json.dumps(answer(outcome, findings, []))
    try:
        store = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(store, dict):  # the library's own promise
        outcome, findings = _outcome(store)
        json.dumps(answer(outcome, findings, []))
