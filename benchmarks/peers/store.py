"""Samples from an S3 server on this machine, each library by its own means, with nothing on the local disk at first.

The server is moto's, in Python: it sets the pace, and figures compare what each library asks of it, not networks.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from readers import CONDITIONS, parse

BUCKET = "cache"
IN_FLIGHT = 4


@contextlib.contextmanager
def served(cache: Path) -> Iterator[dict[str, str]]:
    """Start a server with the files of a cache; yield the environment in which libraries find it."""
    import boto3

    words = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with tempfile.TemporaryFile("w+b") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            while not (found := re.search(rb"Running on (http://127\.0\.0\.1:\d+)\s", _text(log))):
                if server.poll() is not None:
                    raise SystemExit(f"the S3 server did not start:\n{_text(log).decode()}")
                time.sleep(0.1)
            environ = {
                "AWS_ENDPOINT_URL": found[1].decode(), "S3_ENDPOINT_URL": found[1].decode(),
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }  # fmt: skip
            client = boto3.client(
                "s3", endpoint_url=environ["AWS_ENDPOINT_URL"], region_name="us-east-1",
                aws_access_key_id="test", aws_secret_access_key="test",
            )  # fmt: skip
            client.create_bucket(Bucket=BUCKET)
            for file in sorted(cache.rglob("*")):
                if file.is_file():
                    client.upload_file(str(file), BUCKET, file.relative_to(cache).as_posix())
            yield environ
        finally:
            server.terminate()


def _text(log: Any) -> bytes:
    log.seek(0)
    return bytes(log.read())


def steadydancer(scratch: Path) -> Iterator[Any]:
    """Read ranges in random order, one after another."""
    data, keys = _opened(scratch)
    for key in keys:
        yield data.read(key)["conditions"]


def steadydancer_in_flight(scratch: Path) -> Iterator[Any]:
    """Read ranges in random order, four in flight."""
    data, keys = _opened(scratch)
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        ahead: deque[Future[Any]] = deque()
        for key in [*keys, *[None] * IN_FLIGHT]:
            if key is not None:
                ahead.append(pool.submit(data.read, key))
            if len(ahead) == IN_FLIGHT or (key is None and ahead):
                yield ahead.popleft().result()["conditions"]


def _opened(scratch: Path) -> tuple[Any, list[str]]:
    os.environ["STEADYDANCER_SCRATCH"] = str(scratch)
    from steadydancer.datasets.shards import ShardDataset
    from steadydancer.datasets.storage import location

    data = ShardDataset(location(f"s3://{BUCKET}/latents"))
    return data, random.Random(1).sample(data.keys, len(data))


def webdataset(_: Path) -> Iterator[Any]:
    """Read whole shards, in order, from the pipe of `curl`."""
    import boto3
    import webdataset as wds

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    found = client.list_objects_v2(Bucket=BUCKET, Prefix="latents/shards/")["Contents"]
    shards = [
        "pipe:curl -s '" + client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": one["Key"]}) + "'"
        for one in found
        if one["Key"].endswith(".tar")
    ]
    return (sample[CONDITIONS] for sample in wds.WebDataset(shards, shardshuffle=False))


def mosaic(scratch: Path) -> Iterator[Any]:
    """Read in Mosaic's random order from whole shards that it downloads first."""
    from streaming import StreamingDataset

    data = StreamingDataset(remote=f"s3://{BUCKET}/mosaic", local=str(scratch / "mosaic"), shuffle=True, batch_size=1)
    return (sample["conditions"] for sample in data)


def energon(scratch: Path) -> Iterator[Any]:
    """Read in Energon's random order, each sample by itself, by the Multi-Storage Client without a cache."""
    config = scratch / "msc.json"
    options = {"base_path": "", "endpoint_url": os.environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
    provider = {"type": "s3", "options": options}
    config.write_text(json.dumps({"profiles": {"store": {"storage_provider": provider}}}))
    os.environ["MSC_CONFIG"] = str(config)
    from readers import energon_reader

    return energon_reader(f"msc://store/{BUCKET}/latents")(0)


SIDES = {one.__name__: one for one in (steadydancer, steadydancer_in_flight, webdataset, mosaic, energon)}


def measure(side: str) -> dict[str, Any]:
    """Read all samples once; return seconds to the first one and to the last."""
    with tempfile.TemporaryDirectory() as scratch:
        start, cpu, number, size, first = time.perf_counter(), os.times(), 0, 0, None
        for data in SIDES[side](Path(scratch)):
            parse(data)
            number, size = number + 1, size + len(data)
            first = first or time.perf_counter() - start
        wall, after = time.perf_counter() - start, os.times()
    used = sum(after[:4]) - sum(cpu[:4])  # children, too: webdataset's are `curl`
    return {"samples": number, "bytes": size, "cpu_s": used, "wall_s": wall, "first_s": first}
