"""Run an experiment: give it what it uses, and write what comes out."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from .._version import __version__
from ..backbones import open_backbone
from ..benchmark.drawing import MIN_FAKES
from ..catalogue import entry
from ..detector import load
from ..downloads import Progress
from ..embedding_cache import software
from ..errors import UsageError
from ..storage import require_new
from ..types import Failure, Sample
from ..views import view as named_view
from ..weights import ensure
from . import plots
from .data import Data, Rows, read
from .experiment import Experiment, Result
from .features import Encoder, Work, pictures
from .methods import Network, probes
from .published import published
from .split import TEST, TRAIN, VALIDATION, Split, split
from .writing import write

log = logging.getLogger(__name__)

BACKBONE, TAPS, VIEW = "clip-vit-b-16", ("proj",), "native"
"""The paper's own feature: the projected embedding of the centre crop at the picture's own resolution."""

SHARED: Mapping[str, str] = {
    "data": "the images",
    "split": "their parts, by the training generators that were named",
    "split_by": "makes other parts: `(families, generators) -> Split`",
    "encoder": "the frozen encoder, under the view and perturbation asked for",
    "open_encoder": "makes other encoders: `(name, taps) -> Encoder`",
    "layers": "the frozen encoder, opened for the class token after each block and the projected embedding",
    "network": "the trained network, or None",
    "pictures": "decodes pictures: `(rows) -> Iterator`",
    "perturb": "what is laid on every picture",
    "seed": "of all chance",
    "rounds": "redrawn sets of the bootstrap",
}
"""What an experiment can ask for by a parameter's name."""


@dataclass(eq=False)
class Study:
    """What a study was asked to be made on; each experiment is given the parts that it uses.

    Attributes:
        samples: the images.
        data_name: what they are, for the record.
        suite: name of their suite, for the record.
        train_families: generators of these families train.
        train_generators: these generators train too.
        backbone: the encoder.
        taps: its layers.
        view: how crops are cut.
        network: folder of a trained network's detector.
        perturb: laid on every picture first, of both classes.
        limit: at most so many images of each generator and real source.
        seed: of all chance.
        rounds: redrawn sets of the bootstrap.
        cache: folder of kept embeddings.
        threads: of encoders.
        work: how images are worked on.
    """

    samples: Sequence[Sample]
    data_name: str
    suite: str = ""
    train_families: Sequence[str] = ()
    train_generators: Sequence[str] = ()
    backbone: str | Path = BACKBONE
    taps: Sequence[str] = TAPS
    view: str = VIEW
    network: str | Path | None = None
    perturb: str = "clean"
    limit: int | None = None
    seed: int = 0
    rounds: int = 1000
    cache: Path | None = None
    threads: int | None = None
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self._deals: dict[tuple[tuple[str, ...], tuple[str, ...]], Split] = {}
        self._splits: dict[str, Split] = {}
        self._encoders: dict[tuple[str, tuple[str, ...]], Encoder] = {}

    def run(self, name: str, output: Path, options: Mapping[str, Any] | None = None) -> tuple[Failure, ...]:
        """Run one experiment and write its folder.

        Args:
            name: of `univfd.experiments`.
            output: must not exist.
            options: of the experiment's own.

        Returns:
            The images that could not be used.

        Raises:
            UnknownNameError: no such experiment or option.
            OutputExistsError: the folder is there already.
            MissingExtraError: without the extra `study`.
            DataError: the data do not allow this experiment; says why.
        """
        require_new(output)
        plots.require()
        experiment: Experiment = registry.load("experiments", name)
        chosen = experiment.own | dict(options or {})
        for option in chosen:
            if option not in experiment.own:
                raise registry.unknown(f"option of {name}", option, experiment.own)
        asked = [part for part in experiment.uses if part in SHARED]
        if "ks" in chosen:  # what is wrong is said before hours of embedding, not after
            probes(chosen["ks"])
        if experiment.check is not None:
            self._check(experiment.check, chosen)
        if "split" in asked:
            parts = self.parts()
            if "rounds" in experiment.uses:
                self._say_what_is_lacking(parts)
        if "network" in asked and self._network is not None and "split" in asked:
            self._say_what_is_known(self._network, self.parts())
        failures = self._failures(asked)
        data = self.readable.without(failures)
        kept = np.array([i for i, failure in enumerate(failures) if failure is None], np.intp)
        given = {part: self._give(part, data, kept) for part in asked}
        result: Result = experiment.run(**given, **chosen)
        data = data.without([result.failures.get(i) for i in range(len(data))])
        record = self._record(name, asked, chosen, data)
        write(output, experiment, result, published(name), record, data, self._splits)
        return data.failures

    def fetch(self, name: str, options: Mapping[str, Any] | None = None, progress: Progress | None = None) -> None:
        """Fetch the weights that an experiment needs, where they are not there yet."""
        uses = registry.load("experiments", name).uses
        encoders = [str(b) for b in (options or {}).get("backbones", ())] if "open_encoder" in uses else []
        encoders += [str(self.backbone)] if {"encoder", "layers"} & set(uses) else []
        for described in map(entry, encoders):
            if described.recipe:
                ensure(described, progress=progress)

    @cached_property
    def readable(self) -> Data:
        """The images whose files can be read."""
        return read(self.samples, limit=self.limit, workers=self.work.workers, watch=self.work.watch)

    def parts(self) -> Split:
        """The study's split, of all images whose files can be read.

        An image that cannot be decoded has a part too, so that it decides nothing about the others': a network that was
        trained on these parts knows none of the test images of an experiment.
        """
        return self._deal(self.train_families, self.train_generators)

    def _say_what_is_lacking(self, parts: Split) -> None:
        """Means over generators that will have no figure, for want of test images."""
        for word, chosen in (("training", True), ("unseen", False)):
            counts = [m.counts[TEST] for m in parts.members if m.label == "fake" and (m.name in parts.seen) is chosen]
            if max(counts, default=0) < MIN_FAKES:
                more = f"; --limit {self.limit} is too low for that" if self.limit else ""
                log.warning(
                    "no %s generator has %d test images (at most %d), so there will be no mean over them%s",
                    word, MIN_FAKES, max(counts, default=0), more,
                )  # fmt: skip

    def _say_what_is_known(self, network: Network, parts: Split) -> None:
        """Generators and real sources that are held out here and that the network was trained on, by name."""
        generators, sources = network.known
        held_out = {
            "fakes of": {m.name for m in parts.members if m.label == "fake" and m.name not in parts.seen} & generators,
            "reals of": {
                m.name for m in parts.members
                if m.label == "real" and m.counts[TEST] and not m.counts[TRAIN] and not m.counts[VALIDATION]
            } & sources,
        }  # fmt: skip
        for what, names in held_out.items():
            if names:
                log.warning(
                    "the network was trained on %s %s, which are tested here, so its figures may be too good; train on "
                    "what univfd study split writes with the same options", what, ", ".join(sorted(names)),
                )  # fmt: skip

    def _check(self, check: Callable[..., None], chosen: Mapping[str, Any]) -> None:
        def split_by(name: str, families: Sequence[str], generators: Sequence[str] = ()) -> Split:
            return self._deal(families, generators)

        makers: dict[str, Callable[[], Any]] = {"data": lambda: self.readable, "split_by": lambda: split_by}
        check(**{n: makers[n]() if n in makers else chosen[n] for n in inspect.signature(check).parameters})

    def _failures(self, asked: Sequence[str]) -> list[Failure | None]:
        """Why each image cannot be decoded, or None, where they are embedded; what fails, fails for every encoder."""
        if "encoder" in asked:
            encoder = self.encoder(self.backbone, self.taps)
        elif "layers" in asked:
            encoder = self._layers()
        elif "open_encoder" in asked:
            encoder = self.encoder("toy")
        else:
            return [None] * len(self.readable)
        return encoder.failures(self.readable)

    def _give(self, part: str, data: Data, kept: Rows) -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "data": lambda: data,
            "split": lambda: self._split_by(data, kept, "split", self.train_families, self.train_generators),
            "split_by": lambda: partial(self._split_by, data, kept),
            "encoder": lambda: self.encoder(self.backbone, self.taps),
            "open_encoder": lambda: self.encoder,
            "layers": self._layers,
            "network": lambda: self._network,
            "pictures": lambda: partial(pictures, data, perturb=self.perturb, work=self.work),
        }
        return makers[part]() if part in makers else getattr(self, part)

    def _deal(self, families: Sequence[str], generators: Sequence[str]) -> Split:
        key = (tuple(families), tuple(generators))
        if key not in self._deals:
            self._deals[key] = split(self.readable, families=families, generators=generators, seed=self.seed)
        return self._deals[key]

    def _split_by(
        self, data: Data, kept: Rows, name: str, families: Sequence[str], generators: Sequence[str] = ()
    ) -> Split:
        made = self._deal(families, generators).of(data, kept)
        self._splits[name] = made
        return made

    def encoder(self, name: str | Path, taps: Sequence[str] = TAPS) -> Encoder:
        """An encoder under the study's view and perturbation."""
        key = (str(name), tuple(taps))
        if key not in self._encoders:
            opened = open_backbone(name, taps=taps, threads=self.threads)
            self._encoders[key] = Encoder(opened, named_view(self.view), self.perturb, self.cache, self.work)
        return self._encoders[key]

    def _layers(self) -> Encoder:
        known = entry(self.backbone).taps
        taps = [tap for tap in known if tap.startswith("cls.")] or [tap for tap in known if tap.startswith("mean.")]
        if not taps:
            raise UsageError(f"{self.backbone} has no blocks to compare; choose another with --backbone")
        return self.encoder(self.backbone, (*taps, "proj"))

    @cached_property
    def _network(self) -> Network | None:
        if self.network is None:
            return None
        opened = load(self.network, threads=self.threads)
        described = opened.backbone.entry
        if described.folder is None and (described.recipe or described.reopen):
            raise UsageError(
                f"{self.network} decides on features of {described.name}, which was not trained for this: it is no "
                "trained network, and would be shown as one. See univfd train, or compare it by univfd bench"
            )
        return Network(opened, Encoder(opened.backbone, opened.view, self.perturb, self.cache, self.work))

    def _record(self, name: str, asked: Sequence[str], chosen: Mapping[str, Any], data: Data) -> dict[str, Any]:
        record: dict[str, Any] = {
            "experiment": name, "data": self.data_name, "suite": self.suite, "data_digest": data.digest,
            "images": {"given": data.given, "used": len(data), "failed": [f.to_dict() for f in data.failures]},
            "limit": self.limit, "options": dict(chosen), "perturb": self.perturb, "univfd": __version__,
            "software": f"{software()}, {_versions()}",
        }  # fmt: skip
        if "encoder" in asked:
            record["space"] = self.encoder(self.backbone, self.taps).space.to_dict()
        if "network" in asked and self.network is not None:
            record["network"] = self._network.name if self._network else ""
        for key in ("seed", "rounds"):
            record[key] = getattr(self, key)
        record["splits"] = {
            key: {"seen": list(made.seen), "train_digest": made.digest,
                  "images": {m.name: dict(m.counts) for m in made.members if m.label == "fake"},
                  "reals": {m.name: dict(m.counts) for m in made.members if m.label == "real"}}
            for key, made in self._splits.items()
        }  # fmt: skip
        return record


def experiments() -> dict[str, Experiment]:
    """Every experiment, by name."""
    return {name: registry.load("experiments", name) for name in registry.names("experiments")}


def _versions() -> str:
    names = ("sklearn", "scipy", "matplotlib")
    return ", ".join(f"{n} {importlib.import_module(n).__version__}" for n in names)
