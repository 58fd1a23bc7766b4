"""What a job on a cluster makes, with which command: its identity there, whoever asks for it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ARTIFACT, ARGUMENTS, RUN = "steadydancer.artifact", "steadydancer.arguments", "steadydancer.run"


@dataclass(frozen=True)
class Order:
    """One job: the command, and what it makes.

    Args:
        arguments: words after `steadydancer`. Everyone who can see the cluster's jobs reads them: no secrets.
        artifact: folder that the command makes; only one job at a time makes it.
        is_finished: whether the artifact is there, and up to date; asked of the artifact, never of the job server.
        run: id of the run that wants it. Its finished job is not submitted again; for another run it is, and says
            that there is nothing to do, or what has changed.
        is_cancelled: asked every few seconds, and after an interrupt; True stops the job.
        on_job: is given the submission id once it is known.
        stop_grace_s: seconds from the request to stop until the job is killed.
        env: variables of the command and all its workers; no secrets either.
    """

    arguments: list[str]
    artifact: str
    is_finished: Callable[[], bool]
    run: str = ""
    is_cancelled: Callable[[], bool] = lambda: False
    on_job: Callable[[str], None] = lambda submission_id: None
    stop_grace_s: int = 10
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the first submission id of jobs that make the artifact; later attempts add `-2`, `-3`."""
        return "steadydancer-" + hashlib.sha256(self.artifact.encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the job server remembers of the order."""
        digest = hashlib.sha256(json.dumps(self.arguments).encode()).hexdigest()[:16]
        return {ARTIFACT: self.artifact, ARGUMENTS: digest, RUN: self.run}

    def attempt(self, submission_id: str | None) -> int:
        """Return the number of the attempt that a submission id names; 0 for a job that makes something else."""
        found = re.fullmatch(rf"{self.name}(?:-(\d+))?", submission_id or "")
        return int(found[1] or 1) if found else 0

    def submission_id(self, attempt: int) -> str:
        """Return the submission id of an attempt."""
        return self.name if attempt == 1 else f"{self.name}-{attempt}"

    def variables(self) -> dict[str, str]:
        """Return the environment variables of the job."""
        return {
            "PYTHONSAFEPATH": "1",
            "TQDM_MININTERVAL": "30",  # every update of a progress bar is a line in the job's log
            "RAY_JOB_STOP_WAIT_TIME_S": str(self.stop_grace_s),  # Ray's 3 s are less than a training step
            **self.env,
        }
