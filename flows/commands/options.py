"""Options and types shared by the commands, and how a command starts a job and prints its result."""

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
from ...datasets.text import without_controls

if TYPE_CHECKING:
    from ...datasets.artifact import Artifact
    from ...datasets.storage import Location
    from ...pipelines.runtime.runner import Engine
    from ..presets import Run


class Place(click.ParamType):
    """A folder or a file, local or on an object store: a `Path`, or for `s3://…` an `ObjectPath`.

    Args:
        is_file: accept only an existing file.
        is_out: accept only a path at which a folder can be made: not a local file, nor a path below one.
    """

    name = "path"

    def __init__(self, is_file: bool = False, is_out: bool = False) -> None:
        self.is_file, self.is_out = is_file, is_out

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a path or an address; refuse unknown schemes and addresses with credentials."""
        place = _location(self, value, param, ctx)
        if self.is_file and not place.is_file():
            what = "is a folder; pass a file" if place.is_dir() else "does not exist"
            self.fail(f"'{place}' {what}", param, ctx)
        if self.is_out:
            _require_no_file(self, place, param, ctx)
        return place


class Name(click.ParamType):
    """A glob, a hub id or a path, kept as text; addresses are checked."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; refuse unknown schemes and addresses with credentials."""
        if "://" in str(value):
            _location(self, value, param, ctx)
        return value


class NamedPlace(click.ParamType):
    """A path with an optional name before it, `NAME=PATH`.

    Args:
        kind: type of the path.
    """

    name = "[name=]path"

    def __init__(self, kind: Place) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (name or None, path)."""
        if isinstance(value, tuple):
            return value
        from ..named_paths import split_name

        try:
            name, place = split_name(str(value), self.kind.is_file)
        except (ValueError, SteadyDancerError) as error:
            self.fail(str(error), param, ctx)
        return name, self.kind.convert(place, param, ctx)


def _location(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    from ...datasets.storage import location

    try:
        return location(value)
    except SteadyDancerError as error:
        kind.fail(str(error), param, ctx)


class LocalFolder(click.Path):
    """A local folder, for pages that a browser opens and for processes that run in it."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a path; refuse addresses."""
        if "://" in str(value):
            place = _location(self, value, param, ctx)
            self.fail(f"{place} is not on this machine; pass a local folder", param, ctx)
        _require_no_file(self, Path(value), param, ctx)
        return super().convert(value, param, ctx)


def _require_no_file(
    kind: click.ParamType, place: Location, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    """Fail if a path is a file, or is below one."""
    from ...datasets.storage.files import blocking_file

    if (there := blocking_file(place)) is not None:
        kind.fail(f"'{there}' is a file; pass a folder", param, ctx)


def number(text: str) -> float:
    """Parse a finite number. Raises `ValueError` also for NaN and infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


class Number(click.ParamType):
    """A finite number, optionally above zero or not below zero."""

    name = "float"

    def __init__(self, above_zero: bool = False, not_below_zero: bool = False) -> None:
        self.above_zero, self.not_below_zero = above_zero, not_below_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert with `number` and check the bound."""
        try:
            converted = number(value)
        except ValueError:
            self.fail(f"{value!r} is not a finite number", param, ctx)
        if self.above_zero and converted <= 0:
            self.fail(f"{value!r} must be greater than 0", param, ctx)
        if self.not_below_zero and converted < 0:
            self.fail(f"{value!r} must be at least 0", param, ctx)
        return converted


NUMBER, POSITIVE, NOT_NEGATIVE = Number(), Number(above_zero=True), Number(not_below_zero=True)
FOLDER, FILE, OUT, NAME, LOCAL_FOLDER = Place(), Place(is_file=True), Place(is_out=True), Name(), LocalFolder()


class JobCommand(click.Command):
    """A command whose inputs are optional with `--print-config`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; with `--print-config`, inputs are not required."""
        inputs = [param for param in self.params if param.required and param.name != "stage"]
        for param in inputs:
            param.required = "--print-config" not in args
        try:
            return super().parse_args(ctx, args)
        finally:
            for param in inputs:
                param.required = True


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that runs a job."""
    options = [
        click.option("--preset", default="paper", show_default=True,
                     help="tiny, tiny_cluster, toydance, one_gpu, paper, module:function, or FILE.json."),
        click.option("--print-config", is_flag=True, help="Print the configuration as JSON and stop."),
        click.option("--dry-run", is_flag=True, help="Print what would be done, needed and written, and stop."),
        click.option("--address", help="Ray cluster to join. Default: start a private Ray on this machine."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


scores_option = click.option(
    "--scores",
    type=NamedPlace(FILE),
    multiple=True,
    help="[METHOD=]FILE: scores of another program, shown beside the measured ones and marked: VBench's result json, "
    "or a csv of a judge with one video a row; repeatable. OUT/imported keeps them.",
)
in_process_option = click.option(
    "--in-process", is_flag=True, help="Run in this process, without Ray; breakpoint() works."
)


def prepare(run: Run, *, print_config: bool, dry_run: bool, plan: Callable[[], dict[str, Any]]) -> bool:
    """Print the configuration or the plan if requested, and return whether the command is done."""
    if print_config:
        click.echo(run.model_dump_json(indent=2))
    elif dry_run:
        click.echo(json.dumps(plan(), indent=2))
    return print_config or dry_run


def require_cache(run: Run, latents: Location) -> Location:
    """Return the folder of a cache; refuse one whose sizes or types differ from the preset's `cache`.

    An unfinished cache passes: the job refuses it later, together with other errors in the arguments.
    """
    from ...datasets.artifact import ArtifactError
    from ...datasets.artifact_lookup import find_artifact
    from ...datasets.shards.dataset import require_settings
    from ...pipelines.cache.config import CacheConfig
    from ...pipelines.common.older_versions import absent_fields

    try:
        latents = find_artifact(latents, "latents").path
    except ArtifactError:
        return latents
    require_settings(latents, run.cache.settings, absent_fields(CacheConfig))
    return latents


def engine_at(out: Location, in_process: bool, address: str | None, wait_for_nodes_s: float | None = None) -> Engine:
    """Return the engine that runs a command's packets: this process, a private Ray, or a cluster."""
    from ...datasets.storage import state_folder
    from ...pipelines.runtime.runner import Engine

    waits = {} if wait_for_nodes_s is None else {"wait_for_nodes_s": wait_for_nodes_s}
    return Engine(state_folder(out), in_process, address, "steadydancer " + shlex.join(sys.argv[1:]), **waits)


def finish(folder: Location, job: Callable[[], dict[str, Any]]) -> None:
    """Run a job and print the counts of its verdicts with all reasons.

    Raises:
        SteadyDancerError: no row is usable; the message has all reasons.
    """
    finish_all({"": folder}, lambda: {"": job()})


def finish_all(folders: dict[str, Location], job: Callable[[], dict[str, dict[str, Any]]]) -> None:
    """Run a job of several artifacts, by name, and print for each the counts of its verdicts with all reasons.

    Raises:
        SteadyDancerError: an artifact has no usable row; the message has all reasons.
    """
    from ...datasets.artifact import Artifact

    artifacts = {name: Artifact(folder) for name, folder in folders.items()}
    before = {name: artifact.record() for name, artifact in artifacts.items() if artifact.committed}
    for name, record in job().items():
        _print_outcome(artifacts[name], record, before.get(name))


def _print_outcome(artifact: Artifact, record: dict[str, Any], before: dict[str, Any] | None) -> None:
    from ...pipelines.common.outcomes import closing_lines, format_counts, require_usable
    from ...pipelines.runtime.after_commit import after_commit

    folder, counts = artifact.path, record["counts"]
    # A finished evaluation may get a new version.
    click.echo(f"{folder}: {format_counts(counts)}{' (already finished; nothing to do)' if record == before else ''}")
    require_usable(artifact, counts)
    with after_commit(
        f"The list of reasons for {folder}", f"run `steadydancer explain ID --artifact {folder}` for one row"
    ):
        for line in closing_lines(artifact):
            click.echo(without_controls(line))
