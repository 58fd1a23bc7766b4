"""Follow the log of a job on a cluster to its end, through connections that drop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from .job_log import JobLog
from .job_order import Order
from .job_server import FOLLOW_S, JobServer, JobServerError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_POLL_S = 5.0  # between questions whether the run was cancelled
_SILENCE_S = 30.0  # without a line: ask whether the job has ended


def follow(
    server: JobServer, submission_id: str, order: Order, log: JobLog, on_log: Callable[[str], None]
) -> "JobDetails | None":
    """Forward the log until the job ends; return the job, or None if the run was cancelled."""
    num_taken = 0

    def take(line: str) -> None:
        if (shown := log.take(line)) is not None:
            on_log(shown)

    while True:
        num_taken = asyncio.run(_tail(server, submission_id, num_taken, take, order.is_cancelled))
        if order.is_cancelled():
            return None
        try:
            job = server.ask(lambda client: client.get_job_info(submission_id), FOLLOW_S, order.is_cancelled)
        except JobServerError:
            if order.is_cancelled():
                return None
            raise
        if job.status.is_terminal():
            return job
        time.sleep(2)  # the connection was lost, not the job


async def _tail(
    server: JobServer, submission_id: str, num_taken: int, take: Callable[[str], None], is_cancelled: Callable[[], bool]
) -> int:
    """Forward log lines after the first `num_taken` until the job, the connection or the run ends; return their number.

    A connection may be dead without a sign, so silence makes it ask for the job.
    """
    import aiohttp

    chunks = server.client.tail_job_logs(submission_id)
    rest, num_read = "", 0
    chunk = asyncio.ensure_future(_next(chunks))
    last_question = last_line = time.monotonic()
    try:
        while True:
            done, _ = await asyncio.wait({chunk}, timeout=_POLL_S)
            now = time.monotonic()
            if now - last_question >= _POLL_S:
                last_question = now
                if is_cancelled():
                    break
            if not done:
                if now - last_line >= _SILENCE_S:
                    last_line = now
                    if _has_ended(server, submission_id):
                        break
                continue
            last_line = now
            try:
                text = chunk.result()
            except (RuntimeError, OSError, aiohttp.ClientError):
                break
            *lines, rest = (rest + text).split("\n") if text is not None else (rest, "")
            for line in lines:
                num_read += 1
                if num_read > num_taken:
                    take(line)
            if text is None:
                break
            chunk = asyncio.ensure_future(_next(chunks))
    finally:
        chunk.cancel()
    return max(num_taken, num_read)


async def _next(chunks: AsyncIterator[str]) -> str | None:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        return None


def _has_ended(server: JobServer, submission_id: str) -> bool:
    """Return whether the job has ended or the server does not answer: either way, following its log is over."""
    try:
        return bool(server.client.get_job_info(submission_id).status.is_terminal())
    except Exception:  # `follow` asks again, and says what is wrong
        return True
