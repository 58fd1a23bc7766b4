"""The command line. Only click is imported at the top, so that `--help` is fast; torch and Ray are imported on use."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import click

from .. import SteadyDancerError, __version__
from ..datasets.text import without_controls
from .commands.benchmarks import stitch, xdance
from .commands.clips import compare, explain, report
from .commands.convert import convert
from .commands.demo import demo
from .commands.export import export
from .commands.forget import forget
from .commands.jobs import cache, curate, evaluate, train
from .commands.latents import repair, verify
from .commands.pick import pick
from .commands.render import render
from .commands.reproduce import reproduce
from .commands.selection import refilter
from .commands.weights import weights

REMEDIES = {
    errno.ENOSPC: "free some space or choose another --out, then run the same command again to resume",
    errno.EDQUOT: "free some space or choose another --out, then run the same command again to resume",
    errno.EROFS: "choose a writable folder with --out",
    errno.EACCES: "check the permissions or choose another folder",
}


def main() -> None:
    """Run the command line. An error that the user can fix is printed as one message, with exit status 1, or 75."""
    # In the repository's root, our `datasets` would shadow Hugging Face's.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(Path(__file__).resolve().parent.parent))]
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; run the same command again to resume", err=True)
        sys.exit(130)
    except SteadyDancerError as error:
        click.echo(without_controls(f"steadydancer: {error}"), err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or 'the run folder'}"
        remedy = REMEDIES.get(error.errno or 0)
        click.echo(without_controls(f"steadydancer: {message}{f' ({remedy})' if remedy else ''}"), err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Curate, cache, train, render and evaluate: animate a person from an image and a driving video.

    Run an interrupted command again to resume it. A finished command reports that there is nothing to do. Exit status
    75 means a temporary error, such as a store that does not answer: run the same command again later to resume.
    """


for command in (
    curate,
    cache,
    train,
    pick,
    render,
    evaluate,
    xdance,
    stitch,
    demo,
    reproduce,
    convert,
    weights,
    export,
    forget,
    refilter,
    verify,
    repair,
    report,
    explain,
    compare,
):
    cli.add_command(command)


if __name__ == "__main__":
    main()
