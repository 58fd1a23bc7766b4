"""Start a Ray cluster of several nodes on this machine, with a job server, to test cluster deployments.

    python infra/ray/local_cluster.py --nodes 3 --state DIR

It prints the address of the job server and the environment variables for clients, and runs until it is interrupted
(Ctrl-C or SIGTERM). All files are written to DIR; the clients' token is DIR/token.
"""

import argparse
import os
import secrets
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from steadydancer.pipelines.runtime.local_ray import short_path


def prepare_environment(state_dir: Path, folder: Path) -> None:
    """Set the environment variables that Ray reads on import, for this process and its nodes."""
    token = state_dir.resolve() / "token"
    token.unlink(missing_ok=True)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_TMPDIR=str(folder),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_raylet_start_wait_time_s="180",
        RAY_worker_niceness="0",
        PYTHONSAFEPATH="1",
    )
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    if shutil.which("steadydancer") is None:  # submitted jobs run this command from PATH
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def main() -> None:
    """Start the nodes, print their addresses, wait, and stop them."""
    parser = argparse.ArgumentParser(
        description="Start a Ray cluster of several nodes on this machine, with a job server."
    )
    parser.add_argument("--nodes", type=int, default=3, help="number of nodes, including the head (default 3)")
    parser.add_argument("--cpus-per-node", type=int, default=1)
    parser.add_argument("--port", type=int, default=0, help="port of the job server; 0: a free one (default)")
    parser.add_argument("--state", type=Path, required=True, help="folder for sockets, logs and the token")
    arguments = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    arguments.state.mkdir(parents=True, exist_ok=True)
    arguments.state.chmod(0o700)
    with short_path(arguments.state) as folder:
        prepare_environment(arguments.state, folder)
        sessions = folder / "ray"  # Ray looks here, below RAY_TMPDIR, for sessions and the address file
        sessions.mkdir(exist_ok=True)
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            node: dict[str, Any] = {
                "num_cpus": arguments.cpus_per_node,
                "object_store_memory": 256 * 1024**2,
                # Any free port: an agent that finds the head's fixed one taken, by the cluster before or by any other
                # Ray, does not try again, and the cluster never takes a job.
                "dashboard_agent_listen_port": 0,
            }
            dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": arguments.port}
            cluster.add_node(**node, **dashboard, temp_dir=str(sessions))
            for _ in range(arguments.nodes - 1):
                if not stop.is_set():
                    cluster.add_node(**node)
            print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={os.environ['RAY_AUTH_TOKEN_PATH']}")
            print(f"{arguments.nodes} nodes, job server http://{cluster.webui_url}", flush=True)
            stop.wait()
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
