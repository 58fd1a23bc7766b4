"""Share of networks and decoding in the CPU time of a curation with networks.

Curates one packet of procedural dancers without keypoints, with all networks that are installed (TransNetV2, PP-OCR,
person counter, CLIP, a pose model, AMT). Records the calls of networks and decoder, repeats them alone, and prints one
JSON line with their CPU seconds over those of the curation.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_ipc
from steadydancer.datasets.toydance import make_toy_clips
from steadydancer.datasets.video import client
from steadydancer.datasets.video.reader import VideoReader
from steadydancer.datasets.video.worker import perform
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.stages import stages
from steadydancer.pipelines.curate.steps import open_source
from steadydancer.pipelines.runtime.packets import PacketWorker

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Watched:
    """A network that records its calls."""

    def __init__(self, network: Any, calls: list[Call]) -> None:
        self._network, self._calls = network, calls

    def __call__(self, *arguments: Any) -> Any:
        """Call the network and record the call."""
        self._calls.append((self._network, arguments))
        return self._network(*arguments)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        if not callable(value):
            return value

        def noted(*arguments: Any) -> Any:
            self._calls.append((value, arguments))
            return value(*arguments)

        return noted


def watched_stages(config: CurateConfig, calls: list[Call], names: set[str]) -> list[Any]:
    """Return the row stages with recording networks, and collect the names of the networks."""

    def loading(load: Callable[[CurateConfig], Any]) -> Callable[[CurateConfig], Any]:
        def loaded(config: CurateConfig) -> Any:
            tools = load(config)
            networks = {field.name: getattr(tools, field.name) for field in fields(tools)}
            networks = {name: tool for name, tool in networks.items() if tool is not None and name != "excluded"}
            names.update(networks)
            return replace(tools, **{name: Watched(tool, calls) for name, tool in networks.items()})

        return loaded

    return [replace(one, load=loading(one.load)) if one.load else one for one in stages(config)]


def cpu_seconds() -> float:
    """Return CPU seconds of this process, its decoder process, and finished child processes."""
    pid = client.worker_pid()
    child = time.clock_gettime((~pid << 3) | 2) if pid else 0.0
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + child + ended.ru_utime + ended.ru_stime


def timed(work: Callable[[], object]) -> float:
    """Measure the CPU seconds of a call."""
    start = cpu_seconds()
    work()
    return cpu_seconds() - start


def main() -> None:
    """Curate, then repeat the calls of networks and decoder alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    config = CurateConfig(num_frames=33)
    calls: list[Call] = []
    names: set[str] = set()
    requests: list[tuple[str, str, dict[str, Any]]] = []
    ask = client.request

    def noted(operation: str, path: str | os.PathLike[str], **words: Any) -> Any:
        requests.append((operation, str(path), words))
        return ask(operation, path, **words)

    def keep_none(packet: object, rows: list[Row]) -> None:
        pass

    def decode_alone() -> None:
        reader = VideoReader()
        for operation, path, words in requests:
            pictures = perform(reader, operation, path, **words)[1]
            for _ in pictures.stream if pictures else ():
                pass

    with tempfile.TemporaryDirectory() as folder:
        paths = make_toy_clips(Path(folder), num_good=arguments.clips)[: arguments.clips]
        for path in paths:
            path.with_name(f"{path.stem}.pose.safetensors").unlink()
        worker = PacketWorker(watched_stages(config, calls, names), config, CLIP_SCHEMA, keep_none)
        rows = to_ipc((open_source(str(path)) for path in paths), CLIP_SCHEMA)
        item = {"packet": "one", "ids": [str(path) for path in paths], "rows": rows, "seconds": "{}", "fault": ""}
        worker(item)  # loads the networks
        seconds: dict[str, list[float]] = {"curate": [], "networks": [], "decode": []}
        for _ in range(arguments.rounds):
            calls.clear()
            requests.clear()
            client.stop_worker()  # clear its caches
            client.request("index", paths[-1])
            client.request = noted
            seconds["curate"].append(timed(lambda: worker(item)))
            client.request = ask
            seconds["networks"].append(timed(lambda: [call(*given) for call, given in calls]))
            seconds["decode"].append(timed(decode_alone))
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "compared": "networks and decoding alone / the curation",
                "networks": sorted(names),
                "clips": arguments.clips,
                "ratio": round((middle["networks"] + middle["decode"]) / middle["curate"], 3),
                "cpu_s": {name: round(value, 2) for name, value in middle.items()},
                "rounds": arguments.rounds,
                "load": round(os.getloadavg()[0], 1),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
