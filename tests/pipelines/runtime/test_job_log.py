"""Of a job's log a person is shown what happened, and the reason comes first."""

import pytest

from steadydancer.pipelines.runtime.job_log import MAX_REASON, JobLog


def shown(text: str) -> tuple[list[str], str]:
    log = JobLog()
    lines = [log.take(line) for line in text.split("\n")]
    return [line for line in lines if line is not None], log.reason()


FAILED = """curate: 0 of 4 packets done

Traceback (most recent call last):
  File "/x/site-packages/steadydancer/pipelines/runtime/runner.py", line 9, in run
    raise LookupError("no such clip")
           ^^^^^^^^^^^
LookupError: no such clip

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/x/job.py", line 1, in <module>
steadydancer.JobStopped: curate stopped
"""


def test_a_traceback_is_left_out_but_for_its_error() -> None:
    lines, reason = shown(FAILED)
    assert lines == [
        "curate: 0 of 4 packets done",
        "LookupError: no such clip",
        "steadydancer.JobStopped: curate stopped",
    ]
    assert reason == "steadydancer.JobStopped: curate stopped"


def test_the_reason_is_the_commands_last_message_with_its_remedy() -> None:
    text = f"{FAILED}steadydancer: warning, slow\nsteadydancer: the disk is full\nfree some, then run it again\n"
    assert shown(text)[1] == "the disk is full\nfree some, then run it again"
    long = shown("steadydancer: " + "much to say " * 100)[1]
    assert len(long) == MAX_REASON and long.startswith("much to say much")
    assert shown("one\ntwo\nthree\nfour")[1] == "two\nthree\nfour"
    assert shown("")[1] == ""


@pytest.mark.parametrize(
    "noise",
    [
        "(raylet) [state-dump] NodeManager:",
        "[2026-11-29 12:00:00,123 E 4321 4321] (raylet) node_manager.cc:1: node is dead",
        "    @     0x7f0000000000  (unknown)  raise",
        "*** SIGTERM received at time=1 on cpu 0 ***",
        "2026-11-29 12:00:00,123\tINFO worker.py:1900 -- Connecting to existing Ray cluster",
        "   ",
    ],
)
def test_noise_of_ray_is_left_out(noise: str) -> None:
    assert shown(f"before\n{noise}\nafter")[0] == ["before", "after"]


def test_a_line_cannot_control_a_terminal() -> None:
    lines, _ = shown("\x1b[31mred\x1b[0m \x1b]0;title\x07clip\x08s\r 50%|#####| 2/4\x9b2J")
    assert lines == [" 50%|#####| 2/42J"]
    assert shown("\x1b]0;title\x07clip \x1b[2Jname")[0] == ["clip name"]
