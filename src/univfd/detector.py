"""A detector: backbone + classifier + calibration + the bank that its evidence comes from."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import registry
from .backbones import Backbone, EngineBackbone, feature_space, first_taps, open_backbone
from .bank import BankType, FeatureBank
from .blas import one_thread
from .calibration import UNCALIBRATED, Calibration
from .classifiers import Classifier
from .detector_folder import (
    ARRAYS,
    BACKBONE,
    BANK,
    BANK_OF_DEFAULT,
    CARD,
    DEFAULT,
    KIND,
    MANIFEST,
    SCHEMA,
    encoder_of,
    load_bank,
    locate,
    read_manifest,
    require_bank_beside,
)
from .downloads import Progress
from .embedding import Batch, OnPixels, as_if_seen, embed_images, space_of
from .errors import FeatureSpaceError, FormatError, UsageError
from .images import DEFAULT_MAX_PIXELS
from .index import Bank, IndexedBank
from .patch_probe import PatchProbe
from .remarks import Remark
from .sources import Source, display_name
from .storage import copy_folder, finite, new_folder, read_arrays, write_arrays, write_json
from .types import Failure, FeatureSpace, FloatArray, Label, Neighbor, Timings, Verdict, VerdictLabel, digest_of
from .views import View, view

log = logging.getLogger(__name__)

_FEW_ROWS = 20_000  # up to here a search is a small product beside a batch of the encoder


class HasBank(Protocol):
    """What lends a bank under a name: a bank store (its newest version), or a version of one."""

    def deciding(self) -> tuple[Bank, str]:
        """The bank, and its name in verdicts."""
        ...


@dataclass(frozen=True, eq=False)
class Detector:
    """Decides about images.

    Attributes:
        name: for people and in every verdict.
        backbone: the frozen encoder, opened for the detector's taps. The bank has those values or, where the classifier
            reads more than the bank should hold, those of the first taps.
        view: how crops are cut.
        classifier: gives the score.
        bank: known images: the evidence (and, for nearest neighbours, the classifier's rows).
        calibration: turns the score into a verdict.
        patch_probe: what `univfd.heatmap` draws maps with, if any; no verdict depends on it.
    """

    name: str
    backbone: Backbone
    view: View
    classifier: Classifier
    bank: Bank
    calibration: Calibration = UNCALIBRATED
    patch_probe: PatchProbe | None = None

    def __post_init__(self) -> None:
        """Refuse a bank of another feature space, and a patch probe of another encoder."""
        held = space_of(self.bank_backbone, self.view, float32=self._made_in_float32)
        held.require(self.bank.space, "the detector's bank")
        if (reads := getattr(self.classifier, "n_features_in_", self.space.dim)) != self.space.dim:
            gives = f"{self.space.dim} ({'+'.join(self.space.taps)}). Open it for the taps it was fitted on"
            raise FeatureSpaceError(f"the classifier reads {reads} values, the encoder gives {gives}")
        if self.patch_probe is not None:
            theirs = self.patch_probe.space
            entry = replace(self.backbone.entry, lossy="") if self.lossy else self.backbone.entry
            feature_space(entry, theirs.taps, theirs.view).require(theirs, "the detector's patch probe")

    @cached_property
    def reads(self) -> FeatureSpace:
        """The feature space of the encoder's vectors: `space`, but for a lossy engine that gives near ones."""
        return space_of(self.backbone, self.view)

    @cached_property
    def space(self) -> FeatureSpace:
        """The feature space that the detector decides in: that of its bank, or one whose first values its bank has."""
        return space_of(self.backbone, self.view, float32=self._made_in_float32)

    @cached_property
    def _made_in_float32(self) -> bool:
        return self.bank.space != space_of(self.bank_backbone, self.view)

    @property
    def bank_backbone(self) -> Backbone:
        """The encoder, opened for what the bank holds: of views whose crops lie side by side all taps."""
        whole = self.view.pool == "concat"
        return self.backbone if whole else first_taps(self.backbone, len(self.bank.space.taps))

    @property
    def lossy(self) -> str:
        """What the encoder's engine loses against what the detector was made with; empty: nothing."""
        return self.backbone.entry.lossy if self.reads != self.space else ""

    @cached_property
    def identity(self) -> str:
        """`name@digest`, of all that scores and verdicts depend on, not of the names (generators) in attributions."""
        state = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in self.classifier.state().items()}
        parts = {"bank": self.bank.digest, "state": state, "classifier": self._classifier_record()}
        parts |= {"lossy": self.lossy} if self.lossy else {}
        parts |= {"space": self.space.digest} if self.space != self.bank.space else {}
        return f"{self.name}@{digest_of(parts | {'calibration': self.calibration.to_dict()})[:12]}"

    def detect(
        self,
        images: Source | Iterable[Source],
        *,
        perturb: str = "clean",
        neighbors: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        streams: int = 1,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_pixels: OnPixels | None = None,
    ) -> Iterator[Verdict | Failure]:
        """Decide about any number of images: the straight line.

        Args:
            images: paths, folders, globs, tars, bytes, file objects, arrays; see `univfd.sources.expand`.
            perturb: chain laid on the pixels first (`jpeg:60`), see `univfd.perturbations.perturbation`.
            neighbors: rows of evidence of each class.
            batch_size: images a batch (default: sized for the machine); verdicts do not depend on it.
            workers: decoding threads; default: one per CPU.
            streams: batches that the encoder works on at a time.
            max_pixels: larger images are refused.
            on_pixels: see `univfd.embedding.embed_images`.

        Yields:
            One `Verdict` or `Failure` per image, in order, as they are ready.
        """
        batches = embed_images(
            self.backbone, self.view, images,
            perturb=perturb, batch_size=batch_size, workers=workers, streams=streams, max_pixels=max_pixels,
            on_pixels=on_pixels,
        )  # fmt: skip
        for batch in batches:
            verdicts = iter(self.judge(batch, neighbors=neighbors))
            for item in batch.items:
                yield item if isinstance(item, Failure) else next(verdicts)

    def judge(self, batch: Batch, *, neighbors: int = 1) -> list[Verdict]:
        """Score, calibrate and explain the embeddings of a batch: the second half of the line.

        Args:
            batch: from `univfd.embedding.embed_images`, or out of the embedding cache; or rows of a bank.
            neighbors: rows of evidence of each class.

        Returns:
            One verdict per loaded item, in order.

        Raises:
            FeatureSpaceError: the batch was embedded in another space.
        """
        loaded, vectors = batch.loaded, batch.embeddings.vectors
        if not loaded:
            return []
        self._require_readable(batch.embeddings.space)
        start = time.perf_counter()
        with one_thread() if len(self.bank) <= _FEW_ROWS else nullcontext():
            scores, held = self.classifier.decision_function(vectors), vectors[:, : self.bank.space.dim]
            real, fake = (self.bank.nearest(held, neighbors, label=label) for label in Label)
        nearest_real, nearest_fake = (self.bank.neighbors(*found) for found in (real, fake))
        share = (batch.seconds / len(loaded), (time.perf_counter() - start) / len(loaded))
        nearest = np.concatenate([real[0], fake[0]], axis=1).min(axis=1, initial=np.inf)
        doubts = [
            self.calibration.doubts(float(score), float(distance), item.conditions)
            for item, score, distance in zip(loaded, scores, nearest, strict=True)
        ]
        verdicts: list[VerdictLabel] = [
            "unsure" if doubts[i] else self.calibration.verdict(float(score)) for i, score in enumerate(scores)
        ]
        return [
            Verdict(
                image=item.name,
                verdict=verdicts[i],
                score=float(score),
                probability=self.calibration.probability(float(score)),
                attribution=self._attribution(verdicts[i], nearest_fake[i]),
                nearest_fake=nearest_fake[i],
                nearest_real=nearest_real[i],
                sha256=item.sha256,
                width=item.width,
                height=item.height,
                format=item.format,
                view=self.view.name,
                detector=self.identity,
                space=batch.embeddings.space.digest,
                doubts=doubts[i],
                remarks=(*item.notes, *_in_bank(item.sha256, (*nearest_fake[i], *nearest_real[i]))),
                timings=Timings(item.seconds, *share),
            )
            for i, (item, score) in enumerate(zip(loaded, scores, strict=True))
        ]

    def _require_readable(self, space: FeatureSpace) -> None:
        if space not in (self.reads, self.bank.space):
            self.space.require(space, "the images")

    def score_of_crops(self, vectors: FloatArray) -> NDArray[np.float64]:
        """Scores `(N,)` of pictures all of whose crops have the same vector: rows of `(N, D)`."""
        return np.asarray(self.classifier.decision_function(as_if_seen(vectors, self.view)), np.float64)

    def _attribution(self, verdict: VerdictLabel, nearest_fake: tuple[Neighbor, ...]) -> str:
        """See `Calibration.attribution`; a bank without fakes names none."""
        nearest = nearest_fake[0] if nearest_fake else None
        return self.calibration.attribution(verdict, nearest.generator, nearest.distance) if nearest else ""

    def with_bank(self, bank: Bank | HasBank, *, name: str | None = None) -> Detector:
        """This detector with another bank of its feature space.

        What was learned stays as it is, thresholds too; what reads the bank's rows (evidence, doubts, attribution, and
        the score of a classifier that compares with them, by the sizes that the classes have now) reads the new ones.

        Args:
            bank: known images; or a bank store, or a version of one, whose rows are searched where they lie if they
                are many (`univfd.store.BankStore.at`).
            name: of the new detector; default: the same, and what the bank is called in a store.

        Raises:
            FeatureSpaceError: a bank of another space.
            UsageError: the classifier cannot work with it (no row of one class, say).
        """
        if not isinstance(bank, FeatureBank | IndexedBank):
            bank, said = bank.deciding()
            name = name or f"{self.name}+{said}"
        self.bank.space.require(bank.space, "the bank")
        if bank.digest == self.bank.digest:
            return replace(self, bank=bank, name=name or self.name)
        old = self.classifier
        on = getattr(old, "on", None)
        try:
            classifier = on(bank) if on else type(old).from_state(old.get_params(), old.state(), bank)
        except ValueError as error:
            raise UsageError(f"{self.name} cannot decide with this bank: {error}") from error
        return replace(self, bank=bank, classifier=classifier, name=name or self.name)

    def save(
        self,
        folder: Path | str,
        *,
        bank_dtype: BankType = "float32",
        bank_of_default: bool = False,
        card: str | None = None,
        carry_backbone: bool = False,
    ) -> None:
        """Write the detector as a new folder.

        Args:
            folder: must not exist.
            bank_dtype: of the bank's vectors on disk, see `univfd.bank.BankType`.
            bank_of_default: do not write the bank; take that of the detector called `default` beside the folder (of its
                layers, those of this detector).
            card: text of the model card to lay beside it.
            carry_backbone: copy the folder of an encoder of the user's own into the detector's, which then needs no
                other place. Otherwise its path is recorded, unless it lies in a detector's folder itself or its path
                is no Unicode.

        Raises:
            OutputExistsError: the folder exists.
            UsageError: the bank is not in memory, or is not that of the detector beside it.
            FeatureSpaceError: nor is it in that one's space.
            FormatError: the encoder's folder has links out of it.
        """
        if isinstance(self.bank, IndexedBank):
            raise UsageError(
                f"{self.name} decides with {len(self.bank):,} rows of a store, which are not copied; save the detector "
                "without them, and name the store when it is used"
            )
        if bank_of_default:
            require_bank_beside(Path(folder), self.bank, self.name)
        with new_folder(Path(folder)) as scratch:
            record = {
                "name": self.name,
                "space": self.space.to_dict(),
                "classifier": self._classifier_record(),
            }
            if self.space != self.bank.space:
                record["bank_space"] = self.bank.space.to_dict()
            record |= {"calibration": self.calibration.to_dict(), "bank": BANK_OF_DEFAULT if bank_of_default else BANK}
            if (own := self.backbone.entry.folder) is not None:
                carry = carry_backbone or (own.name == BACKBONE and (own.parent / MANIFEST).is_file())
                carry = carry or display_name(own) != str(own)  # JSON holds no such path
                record["backbone_folder"] = BACKBONE if carry else str(own)
                if carry:
                    copy_folder(own, scratch / BACKBONE)
            if self.backbone.entry.reopen:
                record["backbone_name"] = self.backbone.entry.reopen
            if self.patch_probe is not None:
                record["patch_probe"] = self.patch_probe.write(scratch)
            write_json(scratch / MANIFEST, KIND, SCHEMA if "bank_space" in record else 1, record)
            write_arrays(scratch / ARRAYS, self.classifier.state())
            if not bank_of_default:
                (scratch / BANK).mkdir()
                self.bank.write(scratch / BANK, dtype=bank_dtype)
            if card is not None:
                (scratch / CARD).write_text(card, "utf-8")

    def _classifier_record(self) -> dict[str, Any]:
        name = registry.name_of("classifiers", type(self.classifier))
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.classifier.get_params().items()}
        return {"name": name, "params": plain}


def _in_bank(sha256: str, nearest: Iterable[Neighbor]) -> tuple[Remark, ...]:
    """That the very file is a row of the bank, if it is: the shipped detectors have learned from those."""
    found = [n for n in nearest if n.key == sha256 != ""]
    return tuple(
        Remark("in-bank", f"this very file is in the bank, as {n.label.word}: the promise is about new ones")
        for n in found
    )


def load(
    detector: str | Path = DEFAULT,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    backbone: Backbone | None = None,
    engine: str | None = None,
) -> Detector:
    """Open a detector; its encoder's weights are fetched at the very first use.

    Args:
        detector: name of a shipped one (see `shipped`) or a folder written by `Detector.save`.
        threads: for the encoder; default: the CPUs this process may use.
        progress: called while downloading.
        backbone: take this encoder (already open, same feature space) instead of opening one.
        engine: what computes the encoder, see `univfd.backbones.open_backbone`.

    Raises:
        UnknownNameError: neither a shipped name nor a folder.
        FormatError: a folder that cannot be read.
        FeatureSpaceError: this version's encoder gives another feature space than the detector was made in.
        EngineError: the engine computes wrong vectors on this machine, or moves this detector's scores (a lossy one: by
            more than a little, see `univfd.parity.LOSSY_SHARE`).
        WeightsError: see `univfd.weights.ensure`.
    """
    folder = locate(detector)
    manifest = read_manifest(folder)
    space, name = FeatureSpace.from_dict(manifest["space"]), manifest["classifier"]["name"]
    bank = load_bank(folder, manifest)
    state = finite(folder / ARRAYS, read_arrays(folder / ARRAYS, {}))
    try:
        classifier = registry.load("classifiers", name).from_state(manifest["classifier"]["params"], state, bank)
        for dim in {space.dim, bank.space.dim}:  # parameters of other types show now
            classifier.decision_function(np.zeros((1, dim), np.float32))
    except (TypeError, ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise FormatError(f"{folder}: its classifier {name!r} cannot be restored: {error}") from error
    encoder = backbone or open_backbone(
        encoder_of(folder, manifest), taps=space.taps, threads=threads, progress=progress, engine=engine
    )
    opened = Detector(
        name=manifest["name"],
        backbone=encoder,
        view=view(space.view),
        classifier=classifier,
        bank=bank,
        calibration=Calibration.from_dict(manifest["calibration"]),
        patch_probe=PatchProbe.read(folder, manifest["patch_probe"]) if "patch_probe" in manifest else None,
    )
    opened.space.require(space, f"detector {opened.name}")
    if isinstance(encoder, EngineBackbone) and encoder.parity is not None:
        encoder.parity.require_scores(opened.score_of_crops, opened.calibration.between)
    if opened.lossy:
        log.info("the engine is lossy (%s): scores are near those that %s has in float32", opened.lossy, opened.name)
    return opened


def linear_detector(name: str, backbone: Backbone, cut: View, coef: NDArray[np.float64], intercept: float) -> Detector:
    """A detector whose linear layer was trained elsewhere: no bank, hence no neighbours as evidence.

    It decides at score 0 (probability 0.5), as the paper does.

    Args:
        name: the detector's name.
        backbone: the encoder that the layer was trained on.
        cut: how crops are cut.
        coef: `(D,)` weights of the layer.
        intercept: its bias.

    Raises:
        UsageError: the encoder's embeddings do not fit the layer.
    """
    space = space_of(backbone, cut)
    if space.dim != len(coef):
        raise UsageError(f"the head has {len(coef)} weights; {backbone.entry.name} gives {space.dim} values")
    empty = FeatureBank.empty(space)
    state = {"coef": coef, "intercept": np.array([intercept])}
    return Detector(name, backbone, cut, registry.load("classifiers", "linear").from_state({}, state, empty), empty)
