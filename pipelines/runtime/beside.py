"""Run a function in a Ray worker beside this process."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def beside(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Start a function in a Ray worker; return a function that waits for its result, or raises its exception.

    Without Ray in this process, the function runs when its result is asked for. It reserves no CPU, so that the workers
    of other jobs do not wait for it.
    """
    import ray

    if not ray.is_initialized():
        return lambda: function(*arguments)
    result = ray.remote(num_cpus=0)(function).remote(*arguments)

    def wait() -> T:
        try:
            value: T = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return value

    return wait
