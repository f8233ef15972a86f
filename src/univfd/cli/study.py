"""`univfd study`: one command an experiment; its options are what the experiment uses, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..wording import counted
from . import DONE, UNREADABLE
from ._shared import (
    PATH,
    data_options,
    decoding_options,
    download_progress,
    option_group,
    remark,
    rounds_option,
    samples_of,
    watching,
    work_options,
)

if TYPE_CHECKING:
    from ..study.experiment import Experiment

_limit = click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="At most N images of each generator and real source."
)
_seed = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all chance.")
_train = option_group(
    click.option("--train-family", "train_families", multiple=True, metavar="NAME",
                 help="Generators of this family train; repeatable."),
    click.option("--train-generator", "train_generators", multiple=True, metavar="NAME",
                 help="This generator trains; repeatable."),
    _seed,
)  # fmt: skip
_backbone = click.option("--backbone", default="clip-vit-b-16", show_default=True, help="Encoder: a name or a folder.")
_view = click.option("--view", default="native", show_default=True, help="native, resize, five, grid-N.")
_perturb = click.option(
    "--perturb", default="clean", show_default=True, help="Lay a chain on every picture first, of both classes: jpeg:85"
)
_work = option_group(
    _perturb,
    click.option("--cache", type=PATH, help="Folder of kept embeddings.  [default: in the user's cache folder]"),
    work_options,
)
_encoder = option_group(
    _backbone,
    click.option("--tap", "taps", multiple=True, default=("proj",), show_default=True,
                 help="Layer: proj, cls.N, cls.N@K, mlp.N, mlp.N@K or mean.N; repeat to put several side by side."),
    _view,
    _work,
)  # fmt: skip
_network = click.option(
    "--network", type=PATH, metavar="FOLDER", help="Detector of a trained network (see `univfd train`)."
)
_pictures = option_group(_perturb, decoding_options)  # no encoder: nothing to say of its batches and threads
_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "split": _train, "split_by": _seed, "network": _network, "rounds": rounds_option, "seed": _seed,
    "encoder": _encoder, "layers": option_group(_backbone, _view, _work), "open_encoder": option_group(_view, _work),
    "pictures": _pictures,
}  # fmt: skip
"""What an experiment asks for -> the options that decide it."""
_WORK = ("batch_size", "workers", "max_pixels")


class _Experiments(click.Group):
    """The fixed commands, and one for each experiment."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from .. import registry

        return [*super().list_commands(ctx), *registry.names("experiments")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from .. import registry

        fixed = super().get_command(ctx, cmd_name)
        if fixed is not None or cmd_name not in registry.names("experiments"):
            return fixed
        return _command(cmd_name, registry.load("experiments", cmd_name))


@click.group(cls=_Experiments)
def command() -> None:
    """The paper's experiments on any labelled images, each as a report with tables and figures."""


@command.command("list")
def list_experiments() -> None:
    """The experiments."""
    from ..study.run import experiments

    for name, experiment in experiments().items():
        click.echo(f"{name:<16} {experiment.title}")


@command.command("split")
@data_options
@_limit
@_train
@click.option("-o", "--output", type=PATH, required=True, help="Manifest to write, such as parts.jsonl.")
@click.option("--workers", type=click.IntRange(1), help="Reading threads.  [default: one per CPU]")
@click.pass_context
def write_split(
    ctx: click.Context, data: str, root: Path | None, subsets: tuple[str, ...], partial: bool, limit: int | None,
    train_families: tuple[str, ...], train_generators: tuple[str, ...], seed: int, output: Path, workers: int | None,
) -> int:  # fmt: skip
    """Write the parts that the experiments make, as a manifest.

    Its column `split` says train, val or test, so `univfd train OUTPUT` makes a network on the very images that the
    other methods learn from; give it to the experiments with --network.
    """
    from ..study.features import Work
    from ..study.manifest import write_manifest
    from ..study.run import Study

    with watching(ctx) as watch:
        study = Study(
            samples_of(data, root, subsets, partial), str(root or data), train_families=train_families,
            train_generators=train_generators, limit=limit, seed=seed, work=Work(workers=workers, watch=watch),
        )  # fmt: skip
        counts = write_manifest(output, study.readable, study.parts())
    remark(ctx, f"{', '.join(f'{n} {part}' for part, n in counts.items())} -> {output}")
    return UNREADABLE if study.readable.failures else DONE


def _command(name: str, experiment: Experiment) -> click.Command:
    """The command of an experiment."""

    @click.pass_context
    def run(ctx: click.Context, /, **values: Any) -> int:
        return _run(ctx, name, experiment, values)

    function: Any = run
    for option, default in reversed(experiment.own.items()):
        function = _own_option(option, default, experiment.options[option])(function)
    function = click.option("-o", "--output", type=PATH, required=True, help="Folder to make.")(function)
    for part in reversed(experiment.uses):
        if part in _OPTIONS:
            function = _OPTIONS[part](function)
    function = data_options(_limit(function))
    parameters: dict[str | None, click.Parameter] = {}
    for parameter in reversed(function.__click_params__):  # several parts may bring the same option
        parameters.setdefault(parameter.name, parameter)
    return click.Command(
        name, params=list(parameters.values()), callback=run, help=f"{experiment.title}.\n\n{experiment.question}"
    )


def _own_option(name: str, default: Any, text: str) -> Callable[[Any], Any]:
    """An option of an experiment's own: numbers and words, several of them separated by commas."""
    flag = f"--{name.replace('_', '-')}"
    if not isinstance(default, tuple):
        return click.option(flag, name, type=type(default), default=default, show_default=True, help=text)
    kind = type(default[0]) if default else str

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: expected numbers separated by commas") from error

    shown = ",".join(map(str, default))
    return click.option(
        flag, name, default=shown, show_default=bool(shown), callback=parse, metavar="A,B,...", help=text
    )


def _run(ctx: click.Context, name: str, experiment: Experiment, values: dict[str, Any]) -> int:
    from ..study.features import Work
    from ..study.run import Study

    output, data, root = values.pop("output"), values.pop("data"), values.pop("root")
    samples = samples_of(data, root, values.pop("subsets"), values.pop("partial"))
    own = {option: values.pop(option) for option in experiment.own}
    work = {key: value for key in _WORK if (value := values.pop(key, None)) is not None}
    if "max_pixels" in work:
        work["max_pixels"] = round(work["max_pixels"] * 1e6)
    if "split" in experiment.uses and not values["train_families"] and not values["train_generators"]:
        raise UsageError("which generators train? Name them with --train-family or --train-generator")
    study = Study(samples, str(root or data), suite=data if root else "", **values)
    with download_progress(ctx) as downloading:  # before the other bars: a terminal has room for one kind at a time
        study.fetch(name, own, downloading)
    with watching(ctx) as watch:
        study.work = Work(**work, watch=watch)
        failed = study.run(name, output, own)
    left_out = f"{counted(len(failed), 'image')} could not be used; " if failed else ""
    remark(ctx, f"{left_out}report -> {output / 'README.md'}")
    return UNREADABLE if failed else DONE
