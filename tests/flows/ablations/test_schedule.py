"""Packets in order, at most once, and what is said of them; the packets themselves are stand-ins."""

from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.flows.ablations import schedule, workers
from steadydancer.flows.ablations.forecast import forecast
from steadydancer.flows.ablations.packet import RESULT, Packet, checkpoint_of
from steadydancer.flows.ablations.rows import ROWS, choose
from steadydancer.flows.ablations.run import _check_settings, packets_of
from steadydancer.flows.ablations.schedule import duration, run_packets
from steadydancer.flows.ablations.world import World
from steadydancer.flows.presets import change, load

RUN = load("toydance_ablations")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Packet]:
    made: list[Packet] = []

    def run_packet(packet: Packet, run: Any, out: Path, in_phase: Any) -> None:
        assert packet.needs is None or packet.needs.is_done(out)
        in_phase("train")
        if len(made) == 4:
            raise SteadyDancerError("the disk is full")
        made.append(packet)
        packet.folder(out).mkdir(parents=True)
        write_json(packet.folder(out) / RESULT, {})

    monkeypatch.setattr(schedule, "run_packet", run_packet)
    return made


def test_an_interrupted_run_goes_on_with_what_is_left(
    tmp_path: Path, calls: list[Packet], capsys: pytest.CaptureFixture[str]
) -> None:
    packets = packets_of(choose(["stage3", "without_ssae"]), 2)
    assert [str(packet) for packet in packets[:3]] == ["stage1, seed 0", "stage2, seed 0", "stage3, seed 0"]
    cost = forecast(RUN, packets, World())
    with pytest.raises(SteadyDancerError, match="the disk is full"):
        run_packets(RUN, packets, tmp_path, 0, cost)
    assert calls == packets[:4]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and said[3].startswith("4 of 8 packets; without_ssae, seed 0 is finished; about ")
    calls.append(packets[-1])  # one more than the fifth call, at which it fails
    run_packets(RUN, packets, tmp_path, 0, cost)
    assert calls[5:] == packets[4:]
    assert capsys.readouterr().out.splitlines()[-1].endswith("nothing is left")
    before = len(calls)
    run_packets(RUN, packets, tmp_path, 0, cost)
    assert len(calls) == before


def test_a_packet_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    waiting = [Packet("stage2", 0), Packet("without_ssae", 0), Packet("stage2", 1)]
    assert schedule._next(waiting, tmp_path) == Packet("without_ssae", 0)
    Packet("stage1", 1).folder(tmp_path).mkdir(parents=True)
    write_json(Packet("stage1", 1).folder(tmp_path) / RESULT, {})
    assert schedule._next(waiting[:1] + waiting[2:], tmp_path) == Packet("stage2", 1)
    assert schedule._next(waiting[:1], tmp_path) is None


def test_a_row_that_renders_only_takes_the_checkpoint_of_its_parent(tmp_path: Path) -> None:
    assert ROWS["guidance_off"].stage is None
    expected = tmp_path / "packets" / "stage3" / "2" / "train" / "checkpoint"
    assert checkpoint_of(Packet("guidance_off", 2), tmp_path) == expected


def test_a_folder_is_tied_to_its_settings(tmp_path: Path) -> None:
    _check_settings(RUN, World(), tmp_path)
    _check_settings(RUN, World(), tmp_path)
    with pytest.raises(SteadyDancerError, match=r"other settings; choose another --out:\n  run.stage1.steps: 160 → 9"):
        _check_settings(change(RUN, "stage1", steps=9), World(), tmp_path)
    with pytest.raises(SteadyDancerError, match="world.num_pairs: 12 → 3"):
        _check_settings(RUN, World(num_pairs=3), tmp_path)


def test_durations_are_hours_and_minutes() -> None:
    assert [duration(seconds) for seconds in (1, 600, 3600, 9000)] == ["1 min", "10 min", "1 h 0 min", "2 h 30 min"]


@pytest.mark.timeout(600)
def test_workers_report_packets_that_are_done_and_those_that_fail(tmp_path: Path) -> None:
    """A real process: one packet is finished already, the other has no latents."""
    run = change(RUN, "cache", components=str(tmp_path / "nothing"))
    done, failing = Packet("stage1", 0), Packet("stage1", 1)
    done.folder(tmp_path).mkdir(parents=True)
    write_json(done.folder(tmp_path) / RESULT, {})
    worker = workers.Worker(run, tmp_path, tmp_path / "logs" / "worker-0.log")
    try:
        worker.begin(done)
        assert workers.ready([worker], timeout_s=500) == [worker]
        assert worker.report() == workers.Event(done, workers.DONE) and worker.packet is None
        worker.begin(failing)
        assert worker.report() == workers.Event(failing, workers.PHASE, "train")
        with pytest.raises(workers.PacketFailed, match=r"(?s)stage1, seed 1 failed: .*nothing.*worker-0.log; the same"):
            worker.report()
    finally:
        worker.close()
    assert worker.process.returncode is not None


def test_a_worker_that_is_gone_is_told_apart_from_one_that_failed(tmp_path: Path) -> None:
    worker = workers.Worker(RUN, tmp_path, tmp_path / "logs" / "worker-0.log")
    worker.packet = Packet("stage1", 0)
    worker.process.kill()
    with pytest.raises(workers.PacketFailed, match=r"stage1, seed 0: its process ended with status -9 \(-9: killed"):
        worker.report()
    worker.close()
