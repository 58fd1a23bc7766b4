"""Options that commands share: paths, presets, and how a job is begun and told of."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ... import SteadyDancerError

if TYPE_CHECKING:
    from ...datasets.storage import Location
    from ...pipelines.runtime.runner import Engine
    from ..presets import Run


class Place(click.ParamType):
    """A folder or a file, on this machine or on a store: a `Path`, or for `s3://…` an `ObjectPath`.

    Args:
        is_file: refuse what is no file that is there.
        is_out: refuse a file of this machine, and what would lie below one, where a folder is to be made.
    """

    name = "path"

    def __init__(self, is_file: bool = False, is_out: bool = False) -> None:
        self.is_file, self.is_out = is_file, is_out

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse addresses of other kinds, and those that carry credentials."""
        place = _location(self, value, param, ctx)
        if self.is_file and not place.is_file():
            what = "is a folder, a file is wanted" if place.is_dir() else "does not exist"
            self.fail(f"'{place}' {what}", param, ctx)
        if self.is_out:
            _require_no_file(self, place, param, ctx)
        return place


class Name(click.ParamType):
    """What may be more than one place (a glob) or none (a hub id): text, of which addresses are looked at."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse addresses of other kinds, and those that carry credentials."""
        if "://" in str(value):
            _location(self, value, param, ctx)
        return value


def _location(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    from ...datasets.storage import location

    try:
        return location(value)
    except SteadyDancerError as error:
        kind.fail(str(error), param, ctx)


class LocalFolder(click.Path):
    """A folder where only this machine will do: what is shown in a browser, what programs are started in."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse addresses."""
        if "://" in str(value):
            place = _location(self, value, param, ctx)
            self.fail(f"{place}: this must lie on this machine; give a folder", param, ctx)
        _require_no_file(self, Path(value), param, ctx)
        return super().convert(value, param, ctx)


def _require_no_file(
    kind: click.ParamType, place: Location, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    """Refuse a place that is a file, or would lie below one."""
    from ...datasets.storage.files import blocking_file

    if (there := blocking_file(place)) is not None:
        kind.fail(f"'{there}' is a file, and results go into a folder", param, ctx)


def number(text: str) -> float:
    """A finite number. Raises `ValueError` for NaN and infinity, too, which compare with nothing as people mean it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


class Number(click.ParamType):
    """A finite number, above zero or not below it if it must be."""

    name = "float"

    def __init__(self, above_zero: bool = False, not_below_zero: bool = False) -> None:
        self.above_zero, self.not_below_zero = above_zero, not_below_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what `number` does."""
        try:
            converted = number(value)
        except ValueError:
            self.fail(f"{value!r} is not a finite number", param, ctx)
        if self.above_zero and converted <= 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        if self.not_below_zero and converted < 0:
            self.fail(f"{value!r} is below zero", param, ctx)
        return converted


NUMBER, POSITIVE, NOT_NEGATIVE = Number(), Number(above_zero=True), Number(not_below_zero=True)
FOLDER, FILE, OUT, NAME, LOCAL_FOLDER = Place(), Place(is_file=True), Place(is_out=True), Name(), LocalFolder()


class JobCommand(click.Command):
    """A command that asks for its inputs unless only its configuration is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let `--print-config` do without inputs."""
        inputs = [param for param in self.params if param.required and param.name != "stage"]
        for param in inputs:
            param.required = "--print-config" not in args
        try:
            return super().parse_args(ctx, args)
        finally:
            for param in inputs:
                param.required = True


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that runs a job."""
    options = [
        click.option("--preset", default="paper", show_default=True,
                     help="tiny, one_gpu, paper, module:function, or FILE.json."),
        click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, needed and made, and stop."),
        click.option("--address", help="Ray cluster to join; without it a private Ray starts on this machine."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


in_process_option = click.option("--in-process", is_flag=True, help="Run here, without Ray: breakpoint() works.")


def prepare(run: Run, *, print_config: bool, dry_run: bool, plan: Callable[[], dict[str, Any]]) -> bool:
    """Print the configuration or the plan if asked; whether the command is then done."""
    if print_config:
        click.echo(run.model_dump_json(indent=2))
    elif dry_run:
        click.echo(json.dumps(plan(), indent=2))
    return print_config or dry_run


def require_cache(run: Run, latents: Location) -> Location:
    """The folder of a cache; refuse one of other sizes or types than the preset's `cache` says.

    What is no finished cache is refused later, after what is wrong with the words of the command.
    """
    from ...datasets.artifact import ArtifactError
    from ...datasets.finished import find_artifact
    from ...datasets.shards.dataset import require_settings
    from ...pipelines.cache.config import CacheConfig
    from ...pipelines.common.older_versions import absent_fields

    try:
        latents = find_artifact(latents, "latents").path
    except ArtifactError:
        return latents
    require_settings(latents, run.cache.settings, absent_fields(CacheConfig))
    return latents


def engine_at(out: Location, in_process: bool, address: str | None) -> Engine:
    """Where a command's packets run: here without Ray, on a private Ray, or on a cluster's."""
    from ...datasets.storage import state_folder
    from ...pipelines.runtime.runner import Engine

    return Engine(state_folder(out), in_process, address, "steadydancer " + shlex.join(sys.argv[1:]))


def finish(folder: Location, job: Callable[[], dict[str, Any]]) -> None:
    """Run a job and say what it made and why of the rest, or that it was made before.

    Raises:
        SteadyDancerError: nothing that is usable was made; the message has all reasons.
    """
    from ...datasets.artifact import Artifact
    from ...pipelines.common.outcomes import closing_lines, format_counts, require_usable
    from ...pipelines.runtime.after_commit import after_commit

    artifact = Artifact(folder)
    was_finished = artifact.committed
    counts = job()["counts"]
    click.echo(
        f"{folder}: {format_counts(counts)}{' (finished already, nothing was left to do)' if was_finished else ''}"
    )
    require_usable(artifact, counts)
    with after_commit(f"The list of reasons of {folder}", "`steadydancer explain ID --artifact` tells each"):
        for line in closing_lines(artifact):
            click.echo(line)
