import json
import struct
import sys
import threading
import types
from pathlib import Path

import pytest
import torch

from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.metrics import meter
from steadydancer.pipelines.train.metrics.meter import Meter
from steadydancer.pipelines.train.metrics.progress import format_row, progress
from steadydancer.pipelines.train.metrics.report import write_run_page
from steadydancer.pipelines.train.metrics.trackers import open_trackers
from steadydancer.pipelines.train.metrics_file import PARTS, NewRows, loss_terms
from steadydancer.pipelines.train.run_folder import TrainingRefused, append_metrics, cut_metrics


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"stage": 1, "steps": 6, "num_workers": 0, "use_gpu": False, **changes})


def row(step: int, loss: float = 1.0) -> dict:
    shares = {f"{part}_share": 0.25 for part in PARTS}
    terms = {"loss": loss, "fidelity": loss, "validation_loss": 0.5, "validation_loss_0.1": 0.4}
    return {"step": step, **terms, "grad_norm": 0.125, "batch_digest": "ab", "lr": 0.1, "seconds": 2.0, **shares,
            "samples_per_second": 4.0, "memory_bytes": 3 * 10**9, "mfu": None}  # fmt: skip


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard would show: length, checksum, event, checksum, and so on."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += 12 + size + 4
    return found


def test_rows_are_given_once_and_again_when_the_file_was_cut_back(tmp_path):
    rows = NewRows(tmp_path / "metrics.jsonl")
    assert rows() == []
    append_metrics(tmp_path, row(0))
    append_metrics(tmp_path, row(1))
    assert [r["step"] for r in rows()] == [0, 1] and rows() == []
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, ')
        file.flush()
        assert rows() == []
        file.write('"loss": 1}\n')
    assert rows() == [{"step": 2, "loss": 1}]
    cut_metrics(tmp_path, 1)
    append_metrics(tmp_path, row(1, loss=3.0))
    assert [(r["step"], r["loss"]) for r in rows()] == [(0, 1.0), (1, 3.0)]


def test_tensorboard_shows_what_the_metrics_hold_after_a_cut_too(tmp_path):
    for step in range(4):
        append_metrics(tmp_path, row(step))
    with progress(config(), tmp_path, 0):
        pass
    assert [step for step, name, _ in scalars(tmp_path / "tensorboard") if name == "loss"] == [0, 1, 2, 3]

    (tracker,) = open_trackers(config(), tmp_path)
    tracker.add([row(step) for step in range(4)])
    tracker.add([row(0), row(1), row(2, loss=5.0)])  # cut back to 2 while it was watched
    tracker.close()
    shown = scalars(tmp_path / "tensorboard")
    assert [(step, value) for step, name, value in shown if name == "loss"] == [(0, 1.0), (1, 1.0), (2, 5.0)]
    assert {name for _, name, _ in shown} == {*row(0)} - {"step", "batch_digest", "mfu"}


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingRefused, match="^trackers: wandb requires the package wandb: install it with pip"):
        open_trackers(config(trackers=("wandb",)), tmp_path)


class FakeMLflow(types.ModuleType):
    """What the trackers call of mlflow 3.17, with its signatures; a run is known in the thread that began it."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.said: list = []
        self._thread = None

    def set_tracking_uri(self, uri: str) -> None:
        self.uri = uri

    def start_run(self, run_id: str | None = None, experiment_id: str | None = None, run_name: str | None = None):
        self._thread = threading.get_ident()
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "r1"))

    def log_params(self, params: dict, synchronous: bool | None = None) -> None:
        self.said.append(("params", params["stage"]))

    def log_metrics(self, metrics: dict, step: int | None = None, synchronous: bool | None = None) -> None:
        assert self._thread == threading.get_ident()
        self.said.append((step, metrics["loss"]))

    def end_run(self, status: str = "FINISHED") -> None:
        assert self._thread == threading.get_ident()
        self.said.append("end")


class FakeWandb(types.ModuleType):
    """What the trackers call of wandb 0.31, with its signatures."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.said: list = []

    def Settings(self, **settings):
        return settings

    def init(self, *, id=None, resume=None, settings=None, name=None, config=None, dir=None):
        assert settings["console"] == "off" and settings["x_disable_meta"]
        self.said.append((resume, name, config["stage"]))
        return types.SimpleNamespace(id=id or "r1", log=self.log, finish=lambda exit_code=None: self.said.append("end"))

    def log(self, data: dict, step: int | None = None, commit: bool | None = None) -> None:
        self.said.append((step, data["loss"]))


@pytest.fixture(params=[FakeMLflow, FakeWandb])
def server(request, monkeypatch):
    module = request.param()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return module


def test_servers_are_told_of_every_step_once_over_all_starts(tmp_path, server):
    settings = config(trackers=(server.__name__,))
    for steps in ((0, 1, 2), (0, 1, 2, 3)):  # the second start has taken step 2 again
        cut_metrics(tmp_path, 0)
        for step in steps:
            append_metrics(tmp_path, row(step))
        with progress(settings, tmp_path, 0):
            pass
    reported = [said for said in server.said if isinstance(said, tuple) and isinstance(said[0], int)]
    assert reported == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    assert server.said.count("end") == 2
    assert json.loads((tmp_path / f"state/{server.__name__}.json").read_text()) == {"run": "r1", "step": 3}
    if isinstance(server, FakeMLflow):
        assert server.uri == f"sqlite:///{tmp_path}/mlflow.db" and server.said.count(("params", 1)) == 1
    else:
        assert server.said.count(("allow", tmp_path.name, 1)) == 2


def test_a_server_that_fails_stops_nothing_says_no_secret_and_is_told_later(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("SOMEBODYS_API_KEY", "hunter2hunter2")
    name = "log_metrics" if isinstance(server, FakeMLflow) else "log"
    works, attempts = getattr(server, name), []

    def fails(*given, **named):
        attempts.append(1)
        raise ConnectionError("no answer from http://me:pass@host:5000/?key=hunter2hunter2")

    monkeypatch.setattr(server, name, fails)
    for step in range(2):
        append_metrics(tmp_path, row(step))
    (tracker,) = open_trackers(config(trackers=(server.__name__,)), tmp_path)
    rows = NewRows(tmp_path / "metrics.jsonl")
    tracker.add(rows())
    append_metrics(tmp_path, row(2))
    tracker.add(rows())
    assert len(attempts) == 2 and len(caplog.messages) == 1
    assert "http://…@host:5000/?key=…);" in caplog.text and "hunter2" not in caplog.text and "pass@" not in caplog.text

    monkeypatch.setattr(server, name, works)
    if isinstance(server, FakeWandb):
        tracker._tracker._run.log = works
    tracker.close()
    reported = [said for said in server.said if isinstance(said, tuple) and isinstance(said[0], int)]
    assert reported == [(0, 1.0), (1, 1.0), (2, 1.0)]


def test_the_bar_tells_terms_rate_shares_and_memory():
    assert format_row(row(0)) == (
        "loss 1.0000, fidelity 1.0000, validation_loss 0.5000, grad_norm 0.1250, 4 samples/s, "
        "data 25% forward 25% backward 25% optimizer 25%, 3.0 GB"
    )
    assert format_row({**row(0), "mfu": 0.51}).endswith(", MFU 51%")
    not_profiled = {**row(0), "forward_share": None, "backward_share": None, "optimizer_share": None}
    assert " samples/s, data 25%, 3.0 GB" in format_row(not_profiled)
    earlier = {name: value for name, value in row(0).items() if name != "grad_norm"}
    assert format_row(earlier).startswith("loss 1.0000, fidelity 1.0000, validation_loss 0.5000, 4 samples/s, ")


def test_the_page_draws_the_gradient_norm_and_the_shares_that_were_measured(tmp_path):
    def page() -> str:
        write_run_page(tmp_path)
        return (tmp_path / "report.html").read_text()

    unknown = dict.fromkeys(("forward_share", "backward_share", "optimizer_share"))
    earlier = {name: value for name, value in row(0).items() if name != "grad_norm"}
    append_metrics(tmp_path, {**earlier, **unknown})
    assert "gradient norm" not in page() and "grad_norm" not in page() and "<td>forward" not in page()
    assert "`profile` in the configuration" in page() and "<td>data" in page()
    append_metrics(tmp_path, row(1))
    assert "gradient norm" in page() and "grad_norm" not in page()
    assert all(f"<td>{part}" in page() for part in (*PARTS, "other")) and "profile" not in page()
    assert [loss_terms(reported) for reported in (row(0), earlier, {"step": 0, "loss": 1.0})] == [
        ["loss", "fidelity"], ["loss", "fidelity"], ["loss"],
    ]  # fmt: skip


@pytest.mark.parametrize("profile", [False, True])
def test_a_gpu_is_waited_for_within_a_step_only_to_profile_it(monkeypatch, profile):
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(meter, "_peak_flops", lambda device: None)
    monkeypatch.setattr(meter, "_peak_memory", lambda device: 1)
    watch = Meter(config(profile=profile), torch.device("cuda"), {})
    watch.begin()
    for part in PARTS:
        with watch(part):
            pass
    measured = watch.end((9, 64, 64))
    assert len(waited) == (4 if profile else 0)
    known = {part for part in PARTS if measured[f"{part}_share"] is not None}
    assert known == (set(PARTS) if profile else {"data"})  # queueing on a GPU is not the work


def test_a_step_is_measured_part_by_part(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 1.0, 4.0, 4.0, 5.0, 10.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    watch = Meter(config(global_batch_size=5), torch.device("cpu"), {})
    watch.begin()
    for part in ("data", "forward", "data"):
        with watch(part):
            pass
    measured = watch.end((9, 64, 64))
    assert measured.pop("memory_bytes") > 10**6
    assert measured == {
        "seconds": 10.0, "data_share": 0.2, "forward_share": 0.3, "backward_share": 0.0, "optimizer_share": 0.0,
        "samples_per_second": 0.5, "mfu": None,
    }  # fmt: skip


def test_mfu_is_the_share_of_the_gpus_rate_that_the_network_needs(monkeypatch):
    """5.16 PFLOP a clip in 10.4 s, on a GPU of 989 TFLOP/s: 50 %."""
    monkeypatch.setattr(meter, "_peak_flops", lambda device: 989e12)
    clock = iter([0.0, 10.44])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    watch = Meter(config(num_workers=8, use_gpu=True), torch.device("cpu"), {})
    watch.begin()
    assert watch.end((81, 640, 640))["mfu"] == pytest.approx(0.5, abs=1e-3)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),  # a seventh of it
        ("NVIDIA H20", None),
        ("NVIDIA B200X", None),
        ("Somebody's GPU", None),
    ],
)
def test_the_peak_is_that_of_the_card_by_its_whole_name_or_is_not_known_and_said_so(monkeypatch, caplog, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert meter._peak_flops(torch.device("cuda")) == peak
    assert [name in message and "mfu is null" in message for message in caplog.messages] == [True] * (peak is None)
    assert meter._peak_flops(torch.device("cpu")) is None
