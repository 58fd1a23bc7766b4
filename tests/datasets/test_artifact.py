import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pytest

from steadydancer.datasets.artifact import Artifact, ArtifactError, count_verdicts, exclusive, plan_packets
from steadydancer.datasets.digests import content_digest
from steadydancer.datasets.storage import location
from steadydancer.datasets.whole_files import written_aside

IDS = [f"id{i:02}" for i in range(10)]


def test_packets_do_not_depend_on_the_order_of_ids():
    packets = plan_packets(IDS, 4)
    assert packets == plan_packets(reversed(IDS), 4)
    assert [len(p.ids) for p in packets] == [4, 4, 2]
    assert sorted(i for p in packets for i in p.ids) == IDS


def test_resume_is_the_plan_minus_the_parts(tmp_path):
    artifact, packets = Artifact(tmp_path), plan_packets(IDS, 4)
    artifact.begin({"ids": IDS})
    artifact.write_part(packets[1], pa.table({"id": packets[1].ids}))
    artifact.begin({"ids": IDS})
    assert artifact.remaining(packets) == [packets[0], packets[2]]


def test_another_plan_is_refused_naming_what_differs(tmp_path):
    Artifact(tmp_path).begin({"config": {"num_frames": 81}})
    with pytest.raises(ArtifactError, match="config.num_frames: 81 → 41"):
        Artifact(tmp_path).begin({"config": {"num_frames": 41}})


def test_a_record_whose_counts_do_not_balance_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="do not balance"):
        Artifact(tmp_path).commit({"counts": count_verdicts(3, ["ok", "rejected"])})
    assert not Artifact(tmp_path).committed
    Artifact(tmp_path).commit({"counts": count_verdicts(2, ["ok", "rejected"])})
    assert Artifact(tmp_path).committed


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No space left on device: .*x.json"), written_aside(tmp_path / "x.json") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    code = f"""
        import time
        from steadydancer.datasets.whole_files import written_aside
        with written_aside({str(tmp_path / "part-1.parquet")!r}) as aside:
            aside.write_text("half"); print("ready", flush=True); time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert [p.name.startswith(".") for p in tmp_path.iterdir()] == [True]
    Artifact(tmp_path).begin({})
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_two_runs_on_one_folder(tmp_path):
    with exclusive(tmp_path):
        with pytest.raises(ArtifactError, match=f"process {os.getpid()}"), exclusive(tmp_path):
            pass
    with exclusive(tmp_path):
        pass


def test_folder_digest_sees_content_and_names_only(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    before = content_digest(tmp_path)
    os.utime(tmp_path / "a/x", (0, 0))
    assert content_digest(tmp_path) == before
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    assert content_digest(tmp_path) != before


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path):
    """Where an artifact may lie."""
    return tmp_path / "a" if request.param == "folder" else location(request.getfixturevalue("bucket")) / "out/a"


def test_an_artifact_is_the_same_in_a_folder_and_on_a_store(place):
    artifact, packets = Artifact(place), plan_packets(IDS, 4)
    with pytest.raises(ArtifactError, match=r"does not exist|is not finished"):
        artifact.record()
    artifact.begin({"ids": IDS})
    assert artifact.remaining(packets) == packets and not artifact.committed
    for packet in reversed(packets):
        artifact.write_part(packet, pa.table({"id": packet.ids, "other": [1] * len(packet.ids)}))
    artifact.begin({"ids": IDS})
    assert artifact.remaining(packets) == []
    table = Artifact(str(place)).read(["id"])
    assert table.column_names == ["id"] and sorted(table["id"].to_pylist()) == IDS
    assert table["id"].to_pylist()[:2] == list(min(packets, key=lambda packet: packet.id).ids[:2])
    artifact.commit({"counts": count_verdicts(2, ["ok", "rejected"])})
    assert pickle.loads(pickle.dumps(artifact)).record()["counts"]["inputs"] == 2
    with pytest.raises(ArtifactError, match="was begun with other settings"):
        artifact.begin({"ids": []})


def test_a_damaged_part_on_a_store_is_named(bucket):
    artifact, (packet,) = Artifact(f"{bucket}/a"), plan_packets(IDS, 10)
    with written_aside(artifact.part(packet)) as aside:
        aside.write_bytes(b"PAR1 and no more of it PAR1")
    with pytest.raises(ArtifactError, match=f"{artifact.part(packet)} is damaged"):
        artifact.read()
