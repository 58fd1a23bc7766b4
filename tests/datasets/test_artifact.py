import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer.datasets import artifact
from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet, count_verdicts, exclusive, plan_packets
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.atomic import atomic_write
from steadydancer.datasets.storage.digests import content_digest

IDS = [f"id{i:02}" for i in range(10)]


def test_packets_do_not_depend_on_the_order_of_ids():
    packets = plan_packets(IDS, 4)
    assert packets == plan_packets(reversed(IDS), 4)
    assert [len(p.ids) for p in packets] == [4, 4, 2]
    assert sorted(i for p in packets for i in p.ids) == IDS


def test_names_on_disk_are_those_that_earlier_versions_wrote(tmp_path):
    """And those that other programs look for: a finished folder is one with `run.json`."""
    (packet, last) = plan_packets(["b", "c", "a"], 2)
    assert packet == Packet("0473ef2dc0d324ab", ("a", "b")) and last.ids == ("c",)
    assert packet.id == hashlib.sha256(b'["a","b"]').hexdigest()[:16]
    artifact = Artifact(tmp_path / "deep" / "clips")
    for _ in range(2):  # as JSON has it: a tuple is a list when it is read again
        artifact.begin({"config": {"b": 1, "a": (1, 2)}})
    artifact.write_part(packet, pa.table({"id": ["a", "b"]}))
    artifact.commit({"counts": {"inputs": 6, "ok": 1, "rejected": 2, "quarantined": 3}, "more": 1})
    assert {file.name for file in artifact.path.iterdir()} == {"plan.json", "part-0473ef2dc0d324ab.parquet", "run.json"}
    assert json.loads((artifact.path / "plan.json").read_text()) == {"config": {"a": [1, 2], "b": 1}}
    assert json.loads((artifact.path / "run.json").read_text()) == artifact.record()
    assert artifact.record()["more"] == 1 and artifact.committed


def test_a_parent_is_named_by_its_place_and_its_record(tmp_path):
    artifact = Artifact(tmp_path / "a" / "clips")
    record = {"counts": count_verdicts(0, []), "b": [1]}
    artifact.commit(record)
    text = '{"b":[1],"counts":{"inputs":0,"ok":0,"quarantined":0,"rejected":0}}'
    named = artifact.reference_from(tmp_path / "b" / "latents")
    assert named == {"path": "../../a/clips", "digest": hashlib.sha256(text.encode()).hexdigest()}


def test_what_is_not_finished_and_what_is_not_there_are_told_apart(tmp_path):
    with pytest.raises(ArtifactError, match="none does not exist: pass the --out"):
        Artifact(tmp_path / "none").record()
    Artifact(tmp_path / "half").begin({})
    with pytest.raises(ArtifactError, match=r"half is not finished \(it has no run.json\)"):
        Artifact(tmp_path / "half").record()


def test_parts_are_told_from_other_files_and_damage_from_loss(tmp_path):
    artifact = Artifact(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "other.parquet").write_bytes(b"")
    (tmp_path / "part-x.txt").write_bytes(b"")
    with pytest.raises(ArtifactError, match="contains no parts"):
        artifact.read()
    for name in ("part-b", "part-a"):
        pq.write_table(pa.table({"id": [name], "n": [1]}), tmp_path / f"{name}.parquet")
    assert artifact.parts() == ["part-a.parquet", "part-b.parquet"]
    assert artifact.read().to_pylist() == [{"id": "part-a", "n": 1}, {"id": "part-b", "n": 1}]
    assert artifact.read_part("part-b.parquet", ["n"]).to_pylist() == [{"n": 1}]
    whole = (tmp_path / "part-a.parquet").read_bytes()
    for torn in (b"", whole[:-9], whole[: len(whole) // 2]):
        (tmp_path / "part-a.parquet").write_bytes(torn)
        with pytest.raises(ArtifactError, match=r"part-a\.parquet is damaged \(.*copy it again"):
            artifact.read()
    with pytest.raises(ArtifactError, match=r"part-c\.parquet is missing"):
        artifact.read_part("part-c.parquet")


def test_each_verdict_counts(tmp_path):
    assert count_verdicts(4, ["ok", "quarantined", "ok", "rejected"]) == {
        "inputs": 4,
        "ok": 2,
        "rejected": 1,
        "quarantined": 1,
    }
    for verdict in ("ok", "rejected", "quarantined"):
        Artifact(tmp_path / verdict).commit({"counts": count_verdicts(2, [verdict] * 2)})
        for inputs in (1, 3):
            with pytest.raises(ArtifactError, match="do not add up"):
                Artifact(tmp_path / "none").commit({"counts": count_verdicts(inputs, [verdict] * 2)})
    with pytest.raises(KeyError):
        count_verdicts(1, ["fine"])


def test_leftovers_of_killed_writers_go_wherever_they_lie_and_nothing_else_does(tmp_path):
    for name in (".part-1.77.tmp.parquet", "shards/.x.9.tmp.tar", ".lock", "shards/x.tar", "a.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    Artifact(tmp_path).begin({})
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {".lock", "shards/x.tar", "a.tmp", "plan.json"}


def test_nothing_is_done_where_nothing_is(tmp_path):
    packets = plan_packets(IDS, 4)
    assert Artifact(tmp_path / "none").remaining(packets) == packets


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
    with pytest.raises(ArtifactError, match="do not add up"):
        Artifact(tmp_path).commit({"counts": count_verdicts(3, ["ok", "rejected"])})
    assert not Artifact(tmp_path).committed
    Artifact(tmp_path).commit({"counts": count_verdicts(2, ["ok", "rejected"])})
    assert Artifact(tmp_path).committed


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No space left on device: .*x.json"), atomic_write(tmp_path / "x.json") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    code = f"""
        import time
        from steadydancer.datasets.storage.atomic import atomic_write
        with atomic_write({str(tmp_path / "part-1.parquet")!r}) as aside:
            aside.write_text("half"); print("ready", flush=True); time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert [p.name.startswith(".") for p in tmp_path.iterdir()] == [True]
    Artifact(tmp_path).begin({})
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_two_runs_on_one_folder(tmp_path):
    folder = tmp_path / "not" / "there"
    with exclusive(str(folder)) as held:
        assert held == folder and folder.is_dir()
        with pytest.raises(ArtifactError, match=f"process {os.getpid()}"), exclusive(folder):
            pass
    with exclusive(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())
    # One that was killed said who it was; what it said is not left in part behind a shorter number.
    (folder / ".lock").write_text("123456789")
    with exclusive(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())


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
    with pytest.raises(ArtifactError, match="was started with different settings"):
        artifact.begin({"ids": []})


def test_a_damaged_part_on_a_store_is_named(bucket):
    artifact, (packet,) = Artifact(f"{bucket}/a"), plan_packets(IDS, 10)
    with atomic_write(artifact.part(packet)) as aside:
        aside.write_bytes(b"PAR1 and no more of it PAR1")
    with pytest.raises(ArtifactError, match=f"{artifact.part(packet)} is damaged"):
        artifact.read()


def test_parts_that_are_taken_back_are_all_that_go(tmp_path):
    for name in ("part-a.parquet", "part-b.parquet", "part-c.txt", "poses.parquet", "plan.json"):
        (tmp_path / name).touch()
    Artifact(tmp_path).remove_parts()
    assert sorted(place.name for place in tmp_path.iterdir()) == ["part-c.txt", "plan.json", "poses.parquet"]


@pytest.mark.parametrize(
    ("error", "is_damage"),
    [
        (OSError("Unexpected end of stream"), True),  # as Arrow tells of a file that was cut
        (OSError(errno.EIO, "Input/output error"), False),
        (OSError("When reading: AWS Error NETWORK_CONNECTION"), False),
    ],
    ids=["damage", "disk", "store"],
)
def test_what_a_disk_or_a_store_says_is_no_damage(tmp_path, monkeypatch, error, is_damage):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(artifact.pq, "read_table", fails)
    with pytest.raises(ArtifactError if is_damage else OSError) as reported:
        Artifact(tmp_path).read_part("part-a.parquet")
    assert ("damaged" in str(reported.value)) == is_damage


def test_the_columns_of_a_part_are_named_without_its_rows(tmp_path):
    made = Artifact(tmp_path)
    (packet,) = plan_packets(["a"], 1)
    made.write_part(packet, pa.table({"id": ["a"], "score": [0.5]}))
    name = made.part(packet).name
    assert made.part_schema(name).names == ["id", "score"]
    made.part(packet).write_bytes(b"PAR1 and no more")
    with pytest.raises(ArtifactError, match="damaged"):
        made.part_schema(name)
    with pytest.raises(ArtifactError, match="missing"):
        made.part_schema("part-b.parquet")
