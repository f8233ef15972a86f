"""Golden folders of the formats on disk, written by the code of the commit that brought each format in.

    git archive COMMIT src | tar x -C /tmp/then
    PYTHONPATH=/tmp/then/src python tests/golden/make_formats.py PART tests/golden/formats

| part       | commit  | what it writes                                                       |
| ---------- | ------- | -------------------------------------------------------------------- |
| first      | 6addf24 | a bank, a detector with a linear probe, embeddings                   |
| knn        | 4607c1f | a detector with nearest neighbours                                   |
| int8       | 6f0e92f | a bank of schema 2: its vectors are int8, with a step a dimension    |
| patches    | a943aed | a detector with a patch probe                                        |
| bench      | 7aec0fd | a finished benchmark run                                             |
| store      | c7a50ec | a bank store with an addition, a removal, an undo and a tag          |
| ridge      | 707f9dc | a detector with a ridge probe and groups of its own in its promise   |
| wide       | 19f0a11 | a detector of schema 2: it reads more layers than its bank holds     |

`expected.json` beside them says what that code computed from them.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, fake: bool) -> bytes:
    """A PNG of 240 x 240 pixels; fakes have a grid."""
    x = np.arange(240)
    waves = [np.sin(x[:, None] * (0.01 + 0.003 * seed) + c) * np.cos(x[None] * 0.017 * (1 + c)) for c in range(3)]
    pixels = (127 + 90 * np.stack(waves, axis=2)).astype(np.uint8)
    if fake:
        pixels[::2, ::2] = 255 - pixels[::2, ::2] // (2 + seed % 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def samples(first: int, count: int):
    from univfd.types import ImageRef, Label, Sample

    made = []
    for i in range(first, first + count):
        fake = i % 2 == 1
        origin = f"g{(i // 2) % 3}" if fake else f"s{(i // 2) % 3}"
        data = picture(i, fake)
        made.append(Sample(ImageRef(f"{i}.png", data), Label(fake), origin if fake else "", origin, licence="CC0"))
    return made


def opened():
    from univfd.backbones import open_backbone

    try:
        from univfd.views import view
    except ModuleNotFoundError:
        from univfd.transforms import view
    return open_backbone("toy"), view("native")


def built(added: str = "2026-01-01"):
    from univfd.building import build_bank

    return build_bank(*opened(), samples(0, 24), added=added)


def calibrated(classifier: str, params: dict[str, object], **promise: object):
    from univfd.building import assemble
    from univfd.calibration import Calibration

    calibration = Calibration(
        fake_above=0.2, real_below=-0.2, slope=1.5, intercept=0.1, max_fpr=0.1, max_miss=0.1, confidence=0.9,
        n_real=30, n_fake=30, data="made up", **promise,
    )  # fmt: skip
    return assemble(f"then-{classifier}", *opened(), built().bank, classifier, params, calibration)


def verdicts(detector) -> list[dict[str, object]]:
    found = detector.detect([s.ref for s in samples(100, 4)], neighbors=2)
    return [
        {
            "score": v.score, "probability": v.probability, "verdict": v.verdict,
            "nearest_fake": [[n.row, n.distance, n.generator, n.key] for n in v.nearest_fake],
        }
        for v in found
    ]  # fmt: skip


def detector(made, out: Path) -> dict[str, object]:
    name = made.name.replace("then", "detector")
    made.save(out / name, card="# A card\n")
    return {name: {"identity": made.identity, "verdicts": verdicts(made)}}


def knn(out: Path) -> dict[str, object]:
    return detector(calibrated("knn", {"k": 3}), out)


def ridge(out: Path) -> dict[str, object]:
    from univfd.calibration import GroupPromise

    groups = (GroupPromise("cats", 20, 0.2), GroupPromise("dogs", 10, None))
    return detector(calibrated("ridge", {"alpha": 0.5}, groups=groups, known_within=0.5, named_within=0.1), out)


def wide(out: Path) -> dict[str, object]:
    from univfd.backbones import open_backbone
    from univfd.building import assemble, build_bank
    from univfd.views import view

    both, cut = open_backbone("toy", taps=("proj", "mean.1")), view("native")
    bank = build_bank(both, cut, samples(0, 24), added="2026-01-01").bank
    return detector(assemble("then-wide", both, cut, bank, "svm", {"layers": "each"}, bank_taps=1), out)


def first(out: Path) -> dict[str, object]:
    from univfd.embedding import embed_images
    from univfd.embeddings_file import write_embeddings

    told = detector(calibrated("linear", {}), out)
    bank = built().bank
    bank.save(out / "bank-float16", dtype="float16")
    told["bank-float16"] = {"digest": bank.digest, "generators": bank.generator.tolist()}
    batches = embed_images(*opened(), [samples(100, 1)[0].ref, b"no image", samples(101, 1)[0].ref])
    write_embeddings(out / "embeddings", *opened(), batches, perturb="clean")
    return told


def int8(out: Path) -> dict[str, object]:
    from univfd.bank import FeatureBank

    built().bank.save(out / "bank-int8", dtype="int8")
    return {"bank-int8": {"digest": FeatureBank.load(out / "bank-int8").digest}}


def patches(out: Path) -> dict[str, object]:
    from univfd.patch_probe import PatchProbe

    space = replace(calibrated("linear", {}).space, taps=("mean.1",))
    probe = PatchProbe(space, np.linspace(-1, 1, 48, dtype=np.float32), 0.25, "made up")
    replace(calibrated("linear", {}), patch_probe=probe).save(out / "detector-patches")
    return {"detector-patches": {"scores": probe.scores(np.eye(48, dtype=np.float32)[:4]).tolist()}}


def bench(out: Path) -> dict[str, object]:
    from univfd.benchmark.run import run

    made = calibrated("linear", {})
    images = [*samples(100, 6), replace(samples(106, 1)[0], ref=type(samples(106, 1)[0].ref)("bad.png", b"x"))]
    run(images, [made], out / "bench", data="toy", perturbations=("clean", "jpeg:50"), cache=out.parent / "cache")
    clean = [v.score for v in made.detect([s.ref for s in images[:6]])]
    return {"bench": {"identity": made.identity, "clean": clean}}


def store(out: Path) -> dict[str, object]:
    from univfd.store.adding import add_rows
    from univfd.store.rows import Rows
    from univfd.store.store import BankStore

    bank = built().bank
    made = BankStore.create(out / "store", bank.space, who="somebody")
    add_rows(made, Rows.of(bank.take(range(16)), batch="one"), "sixteen rows", "add", made.snapshot())
    made.tag("sixteen")
    add_rows(made, Rows.of(bank.take(range(16, 24)), batch="two"), "eight more", "add", made.snapshot())
    made.remove(made.snapshot().ids[:3], "three of them")
    made.undo()
    versions = [e.number for e in made.history().edits]
    digests = {str(v): made.snapshot(v).bank.digest for v in versions}
    return {"store": {"digests": digests, "tag": "sixteen", "keys": made.snapshot().rows.keys()}}


if __name__ == "__main__":
    parts = {
        "first": first,
        "knn": knn,
        "int8": int8,
        "patches": patches,
        "bench": bench,
        "store": store,
        "ridge": ridge,
        "wide": wide,
    }
    part, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    told = parts[part](out)
    place = out / "expected.json"
    before = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(before | told, indent=1, sort_keys=True) + "\n")
