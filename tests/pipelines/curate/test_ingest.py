"""Sources are listed once each, whatever lies among them, with what a manifest says of them."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.exports import LINE_FIELDS
from steadydancer.datasets.schema import Row, columns_of
from steadydancer.datasets.storage import local_copy, location
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.datasets.toydance import load_supplied_pose
from steadydancer.datasets.video import VideoError, probe
from steadydancer.flows.presets import tiny
from steadydancer.pipelines.curate import job
from steadydancer.pipelines.curate.ingest import SCHEMA, find_sources, list_sources, read_sources, sources_digest
from steadydancer.pipelines.curate.networks import load_excluded
from steadydancer.pipelines.runtime.runner import Engine


def names(clips: object, below: Path) -> list[str]:
    return [os.path.relpath(name, below) for name in list_sources(str(clips))]


def test_a_folder_is_searched_through_and_what_is_no_file_is_listed_once(tmp_path: Path) -> None:
    """And each of these ends in a verdict when it is opened, at once."""
    top = tmp_path / "clips"
    (top / "sub").mkdir(parents=True)
    (top / "folder.mp4").mkdir()
    (top / "folder.mp4" / "inside.MP4").write_bytes(b"x")
    os.mkfifo(top / "pipe.mp4")
    (top / "dangling.mp4").symlink_to("nowhere")
    (top / "itself.mp4").symlink_to("itself.mp4")
    for name in ("sub/b.mov", "notes.txt"):
        (top / name).write_bytes(b"x")
    found = names(top, top)
    assert found == ["dangling.mp4", "folder.mp4", "folder.mp4/inside.MP4", "itself.mp4", "pipe.mp4", "sub/b.mov"]
    for name in found:
        with pytest.raises(VideoError) as reported:
            probe(top / name)
        assert reported.value.reason == "unreadable"


def test_links_to_folders_are_followed_and_none_is_looked_into_twice(tmp_path: Path) -> None:
    elsewhere, top = tmp_path / "elsewhere", tmp_path / "clips"
    for folder in (elsewhere, top / "z"):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_bytes(b"x")
    (top / "a_loop").symlink_to(top)
    (top / "z" / "up").symlink_to("..")
    (top / "b").symlink_to(elsewhere)
    (top / "c").symlink_to(elsewhere)
    (top / "a_link_to_z").symlink_to("z")  # comes first by name; the folder's own name is the one
    assert names(top, top) == ["b/a.mp4", "z/a.mp4"]
    assert names(top / "**" / "*.mp4", top) == names(top, top)
    assert names(top / "z*" / "*.mp4", top) == ["z/a.mp4"]
    assert names(top / "**" / "z" / "a.m?4", top) == ["z/a.mp4"]


RENDERS = {"kind": "renders", "version": "0.1.0", "counts": {}}
EXPORT = {"kind": "export", "version": "0.1.0", "counts": {}}
START = {"config": {}, "latents": "0", "base": "1", "parent": None}
HALF = {"config": {}, "checkpoint": "0", "pairs": "1", "components": {}, "packet_size": 1}


def products(top: Path) -> dict[str, int]:
    """What commands leave below a folder of clips; how many videos lie in each."""
    files: dict[str, Any] = {
        "run/renders/run.json": RENDERS, "run/renders/a.mp4": None, "run/renders/b.mp4": None,
        "run/half/plan.json": HALF, "run/half/a.mp4": None,
        "run/export/run.json": EXPORT, "run/export/videos/a.mp4": None, "run/export/pose_videos/a.mp4": None,
        "run/stage1/start.json": START, "run/stage1/gallery/clips/x-pose.mp4": None,
        "run/stage1/gallery/step-000001/x.mp4": None,
        "run/.engine/cache/a.mp4": None,
        "run/pairs/pairs.jsonl": {"id": "x", "image": "clips/x.png", "driving": f"clips/{0:016d}.mp4"},
        "run/pairs/clips/x.mp4": None,
        "demo/inputs.json": {"clips": None}, "demo/report/media/x.mp4": None, "demo/dancers/clips/x.mp4": None,
    }  # fmt: skip
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("x" if content is None else json.dumps(content))
    return {"run/renders": 2, "run/half": 1, "run/export": 2, "run/stage1/gallery": 2, "run/.engine": 1,
            "run/pairs": 1, "demo/report": 1, "demo/dancers": 1}  # fmt: skip


def own(top: Path) -> list[str]:
    """A person's own files, in folders whose names are ours, beside records that are not."""
    files = {
        "a.mp4": "x", "renders/mine.mp4": "x", "renders/run.json": json.dumps({"kind": "renders", "of": "a person"}),
        "export/b.mp4": "x", "export/plan.json": json.dumps({"config": {"a": 1}}), "gallery/c.mp4": "x",
        "pairs/pairs.jsonl": json.dumps({"driving": "clips/dance.mp4"}), "pairs/clips/dance.mp4": "x",
        "report/d.mp4": "x", "run/raw/e.mp4": "x", "broken/run.json": "{", "broken/f.mp4": "x",
        "pose_videos/g.mp4": "x",
    }  # fmt: skip
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)
    return sorted(name for name in files if name.endswith(".mp4"))


def test_what_this_program_made_below_a_folder_is_no_source_and_is_counted(tmp_path: Path) -> None:
    top = tmp_path / "clips"
    mine, made = own(top), products(top)
    found = find_sources(str(top))
    assert names(top, top) == mine
    folders = {str(top / name): made[name] for name in sorted(made)}
    assert found.left_out.record() == {"files": 11, "folders": folders}
    assert str(found.left_out).startswith("skipping 11 videos that this program wrote: 1 in ")
    # The same by a glob, and below a link.
    assert names(top / "**" / "*.mp4", top) == mine
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "all").symlink_to(top)
    assert names(linked, linked) == [f"all/{name}" for name in mine]
    assert len(find_sources(str(linked)).left_out) == 11


def test_what_is_given_itself_is_a_source_whoever_made_it(tmp_path: Path) -> None:
    top = tmp_path / "clips"
    products(top)
    run = top / "run"
    assert names(run / "renders", run) == ["renders/a.mp4", "renders/b.mp4"]
    assert names(run / "export", run) == ["export/videos/a.mp4"]  # its pose videos are pictures of keypoints
    assert find_sources(str(run / "export")).left_out.folders == {str(run / "export/pose_videos"): 1}
    assert names(run / "export" / "videos", run) == ["export/videos/a.mp4"]
    assert names(run / "renders" / "a.mp4", run) == ["renders/a.mp4"]
    assert names(top / "demo", top) == ["demo/dancers/clips/x.mp4"]
    # A glob names a folder, or a star stands for it.
    assert names(top / "*" / "renders" / "*.mp4", run) == ["renders/a.mp4", "renders/b.mp4"]
    assert names(top / "**" / "renders" / "*.mp4", run) == ["renders/a.mp4", "renders/b.mp4"]
    with pytest.raises(ArtifactError, match="no videos except those that this program wrote"):
        names(run / "exp*" / "videos" / "*.mp4", run)


def test_a_folder_of_nothing_but_products_is_refused_by_saying_so(tmp_path: Path) -> None:
    products(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"no videos except those that this program wrote: skipping 9 videos .* 2 in .*/run/export"
    ):
        list_sources(str(tmp_path / "run"))
    (tmp_path / "m.csv").write_text("path\nrun/renders/a.mp4\n")
    assert names(tmp_path / "m.csv", tmp_path) == ["run/renders/a.mp4"]


def test_products_below_a_prefix_of_a_store_are_no_sources(bucket: str, tmp_path: Path) -> None:
    mine, made = own(tmp_path / "clips"), products(tmp_path / "clips")
    root = ObjectPath.parse(bucket)
    for file in (tmp_path / "clips").rglob("*"):
        if file.is_file():
            upload_file(file, root / file.relative_to(tmp_path).as_posix())
    found = find_sources(f"{bucket}/clips")
    assert found.table["source_path"].to_pylist() == [f"{bucket}/clips/{name}" for name in mine]
    assert found.left_out.folders == {f"{bucket}/clips/{name}": made[name] for name in sorted(made)}
    assert list_sources(f"{bucket}/clips/**/*.mp4") == [f"{bucket}/clips/{name}" for name in mine]
    assert list_sources(f"{bucket}/clips/*/renders/*.mp4") == [f"{bucket}/clips/run/renders/{x}.mp4" for x in "ab"]
    assert list_sources(f"{bucket}/clips/run/export") == [f"{bucket}/clips/run/export/videos/a.mp4"]


def test_a_folder_that_may_not_be_looked_into_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"x")
    scandir = os.scandir

    def closed(folder: Any) -> Any:  # tests may run as root, who may look everywhere
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    assert names(tmp_path, tmp_path) == ["a.mp4", "closed"]
    with pytest.raises(PermissionError):
        list_sources(str(tmp_path / "closed"))
    with pytest.raises(VideoError, match="unreadable"):
        probe(tmp_path / "closed")


def test_a_name_that_is_not_in_utf8_is_an_address_and_opens(dancers: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9 %"
    for suffix in (".mp4", ".txt", ".pose.safetensors"):
        Path(os.fsdecode(odd + suffix.encode())).symlink_to(dancers / "clips" / f"dark{suffix}")
    (address,) = list_sources(str(tmp_path))
    assert address == f"file://{tmp_path}/caf%E9%20%25.mp4"
    assert os.fsencode(location(address)) == odd + b".mp4"
    with local_copy(address) as here:
        str(here).encode()
        assert probe(here) == probe(dancers / "clips" / "dark.mp4")
        assert here.with_suffix(".txt").read_text() == (dancers / "clips" / "dark.txt").read_text()
        assert load_supplied_pose(here) is not None
    # The same in a manifest, which holds text; a good name written so is the good name.
    (tmp_path / "m.csv").write_text(f"path\n{address}\nfile://{tmp_path}/b%20c.mp4\n")
    assert list_sources(str(tmp_path / "m.csv")) == [f"{tmp_path}/b c.mp4", address]


ROWS = [
    {"path": "b.mp4", "source": "https://host/b", "licence": "CC0", "prompt": "  One dances. "},
    {"path": "a.mp4", "source": "", "licence": None, "prompt": "x,\ny"},
    {"path": "./b.mp4", "source": None, "licence": "CC0", "prompt": ""},
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_says_where_from_under_which_licence_and_what(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"m.{kind}"
    if kind == "csv":
        lines = (
            ",".join(ROWS[0]) + ',note\nb.mp4,https://host/b,CC0,  One dances. ,1\na.mp4,,,"x,\ny",2\n./b.mp4,,CC0,,'
        )
        file.write_text(lines + "\n")
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({**row, "note": 1}) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    sources = read_sources(str(file))
    assert sources.schema == SCHEMA
    assert sources.to_pylist() == [
        {"source_path": f"{tmp_path}/a.mp4", "origin": None, "licence": None, "prompt": "x,\ny"},
        {"source_path": f"{tmp_path}/b.mp4", "origin": "https://host/b", "licence": "CC0", "prompt": "One dances."},
    ]
    assert list_sources(str(file)) == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4"]


def test_a_licence_is_found_in_both_spellings(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,license\na.mp4,CC-BY\n")
    assert read_sources(str(tmp_path / "m.csv"))["licence"].to_pylist() == ["CC-BY"]


@pytest.mark.parametrize(
    "lines",
    [
        "path,caption,License\na.mp4,She dances.,CC-BY\n",
        "video_path,text,license\n a.mp4 , She dances. ,CC-BY\n",
        "File_Name,Prompt,LICENCE\na.mp4,\ufeffShe dances.,CC-BY\n",
        "video,prompt,caption,license,licence\na.mp4,,She dances.,CC-BY,CC-BY\n",
        "video;text;license\na.mp4;She dances.;CC-BY\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_columns_have_the_names_that_others_give_them(tmp_path: Path, lines: str, encoding: str) -> None:
    (tmp_path / "m.CSV").write_bytes(lines.encode(encoding))
    assert read_sources(str(tmp_path / "m.CSV")).to_pylist() == [
        {"source_path": f"{tmp_path}/a.mp4", "origin": None, "licence": "CC-BY", "prompt": "She dances."}
    ]


def test_of_an_origin_the_column_source_decides(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,origin,source\na.mp4,elsewhere,https://host/a\nb.mp4,elsewhere,\n")
    origins = [row["origin"] for row in read_sources(str(tmp_path / "m.csv")).to_pylist()]
    assert origins == ["https://host/a", "elsewhere"]


def test_columns_that_are_not_read_are_named_but_for_those_of_an_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = {"path": "a.mp4", "video": "a.mp4", "prompt": "x", "licence": "CC0", "origin": "o", "source": "o",
            **dict.fromkeys(LINE_FIELDS - {"prompt", "licence"}), "caption": "videos/a.txt"}  # fmt: skip
    (tmp_path / "clips.jsonl").write_text(json.dumps(line) + "\n")
    row = {"source_path": f"{tmp_path}/a.mp4", "origin": "o", "licence": "CC0", "prompt": "x"}
    assert read_sources(str(tmp_path / "clips.jsonl")).to_pylist() == [row]
    assert not caplog.records
    (tmp_path / "mine.csv").write_text("path,start_s,prmopt\na.mp4,1.5,x\n")
    read_sources(str(tmp_path / "mine.csv"))
    (record,) = caplog.records
    assert "ignored columns: 'start_s', 'prmopt'. Columns that are read: path or video or" in record.getMessage()


def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,licence\na.mp4,CC0\nb.mp4,CC0\nsub/../b.mp4,\n./a.mp4,all rights reserved\n")
    with pytest.raises(SteadyDancerError, match=r"m\.csv lists /.*/a\.mp4 twice, with licence 'CC0' and 'all rights r"):
        read_sources(str(tmp_path / "m.csv"))


def test_the_digest_changes_with_every_column(tmp_path: Path) -> None:
    digests = set()
    for line in ("a.mp4,,,", "b.mp4,,,", "a.mp4,x,,", "a.mp4,,x,", "a.mp4,,,x"):
        (tmp_path / "m.csv").write_text(f"path,source,licence,prompt\n{line}\n")
        digests.add(sources_digest(read_sources(str(tmp_path / "m.csv"))))
    assert len(digests) == 5
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert sources_digest(read_sources(str(tmp_path))) in digests  # the folder says what the bare manifest says


@pytest.mark.acceptance
def test_a_million_rows_are_read_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own, whose largest size is told."""
    import subprocess
    import sys

    with (tmp_path / "m.csv").open("w") as file:
        file.write("path,licence,source,prompt\n")
        for i in range(1_000_000):
            file.write(f'folder_{i % 1000}/clip {i}.mp4,CC-BY,https://host/{i},"A dancer, number {i}, swings."\n')
    code = (
        "import resource, sys\n"
        "from steadydancer.pipelines.curate.ingest import read_sources\n"
        "assert len(read_sources(sys.argv[1])) == 1_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m.csv"], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5, "GB"


CONFIG = tiny().curate.model_copy(update={"pose_model": "supplied"})


def curate(clips: object, out: Path, **changes: Any) -> dict[str, Row]:
    """Rows of a curation, by the file's stem; the first one of a file."""
    config = CONFIG.model_copy(update=changes)
    job.run(config, clips=str(clips), out=out, engine=Engine(out / ".engine", in_process=True))
    rows = Artifact(out / "clips").read().to_pylist()
    return {Path(row["source_path"]).stem: row for row in sorted(rows, key=lambda row: -(row["start_s"] or 0))}


def test_what_a_manifest_says_comes_out_with_the_clip_and_wins_over_the_file_beside_it(
    dancers: Path, tmp_path: Path
) -> None:
    clips = dancers / "clips"
    (tmp_path / "m.csv").write_text(
        "path,source,licence,prompt\n"
        f"{clips}/dancer_0.mp4,https://host/0,CC0,She dances.\n{clips}/dark.mp4,,,\n{clips}/truncated.mp4,t,,T.\n"
    )
    rows = curate(tmp_path / "m.csv", tmp_path / "out")
    said = {name: tuple(row[key] for key in ("origin", "licence", "prompt")) for name, row in rows.items()}
    assert said == {
        "dancer_0": ("https://host/0", "CC0", "She dances."),
        "dark": (None, None, (clips / "dark.txt").read_text().strip()),
        "truncated": ("t", None, "T."),  # a source that cannot be read still says where it came from
    }
    (tmp_path / "m.csv").write_text((tmp_path / "m.csv").read_text().replace("CC0", "all rights reserved"))
    with pytest.raises(ArtifactError, match="sources: "):
        curate(tmp_path / "m.csv", tmp_path / "out")


CAPTIONS = {
    "dancer_0": "Une danseuse à l’écharpe rouge.".encode("utf-16"),
    "dancer_1": b"\xef\xbb\xbf\n",
    "dark": "红裙女孩在跳舞。".encode("gbk"),
    "static": "Elle danse, légère.".encode("cp1252"),
    "two_people": "\ufeffHe dances.\r\n".encode(),
}


def test_captions_are_read_in_any_unicode_and_refused_in_anything_else(dancers: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name, caption in CAPTIONS.items():
        for suffix in (".mp4", ".pose.safetensors"):
            (clips / f"{name}{suffix}").symlink_to(dancers / "clips" / f"{name}{suffix}")
        (clips / f"{name}.txt").write_bytes(caption)
    rows = curate(clips, tmp_path / "out")
    assert {name: row["prompt"] for name, row in rows.items()} == {
        "dancer_0": "Une danseuse à l’écharpe rouge.", "dancer_1": None, "dark": None, "static": None,
        "two_people": "He dances.",
    }  # fmt: skip
    for name, byte in (("dark", r"0 (0xba)"), ("static", "13 (0xe9)")):
        row = rows[name]
        assert (row["verdict"], row["reason"]) == ("quarantined", "unreadable_caption")
        assert row["detail"].startswith(f"{name}.txt: byte {byte} is not UTF-8") and "save" in row["detail"]
        assert row["source_id"] and row["num_source_frames"] == 72
    assert [rows[name]["verdict"] for name in ("dancer_0", "dancer_1")] == ["ok", "ok"]
    # What a manifest says needs no file beside the video.
    (tmp_path / "m.csv").write_text(f"path,prompt\n{clips}/static.mp4,She dances.\n")
    (row,) = curate(tmp_path / "m.csv", tmp_path / "said").values()
    assert (row["prompt"], row["reason"]) == ("She dances.", "min_motion_magnitude")


def test_what_lies_beside_two_files_is_nobodys_and_each_row_and_the_console_say_so(
    dancers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name, source in (("dance.mp4", "dancer_0"), ("dance.MOV", "dancer_1"), ("own.mp4", "dancer_0")):
        (clips / name).symlink_to(dancers / "clips" / f"{source}.mp4")
    for name, source in (("dance.pose", "dancer_0"), ("dance.MOV.pose", "dancer_1"), ("own.mp4.pose", "dancer_0")):
        (clips / f"{name}.safetensors").symlink_to(dancers / "clips" / f"{source}.pose.safetensors")
    (clips / "dance.txt").write_text("whose?")
    (clips / "own.mp4.TXT").write_text("mine")
    (clips / "own.jpg").write_bytes(b"a cover")
    out = tmp_path / "out"
    config = CONFIG.model_copy(update={"duplicates": CONFIG.duplicates.model_copy(update={"scope": "off"})})
    job.run(config, clips=str(clips), out=out, engine=Engine(out / ".engine", in_process=True))
    rows = {Path(row["source_path"]).name: row for row in Artifact(out / "clips").read().to_pylist()}
    assert {name: row["prompt"] for name, row in rows.items()} == {
        "dance.mp4": None, "dance.MOV": None, "own.mp4": "mine"
    }  # fmt: skip
    assert {row["pose_model"] for row in rows.values()} == {"supplied"}  # the mov has keypoints of its own
    for name in ("dance.mp4", "dance.MOV"):
        said = (
            "dance.txt was ignored: several files in the folder are named dance; "
            f"to assign it to this file, name it {name}.txt"
        )
        assert rows[name]["sidecar_note"] == said
        assert f"{clips}/{name}: {said}" in caplog.messages
    assert rows["own.mp4"]["sidecar_note"] is None and len(caplog.messages) == 2
    own = Artifact(out / "measured").read(["source_path", "pose_digest"]).to_pylist()
    digest = {Path(row["source_path"]).name: row["pose_digest"] for row in own}
    assert digest["dance.mp4"] == digest["own.mp4"] != digest["dance.MOV"]


def test_trusted_sources_are_probed_cut_and_posed_but_not_scored(dancers: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("dancer_0", "dark", "truncated", "cut_short"):
        for file in (dancers / "clips").glob(f"{name}.*"):
            (clips / file.name).symlink_to(file)
    rows = curate(clips, tmp_path / "out", trust=True)
    verdicts = {name: (row["verdict"], row["reason"]) for name, row in rows.items()}
    assert verdicts == {
        "dancer_0": ("ok", None),
        "dark": ("ok", None),
        "truncated": ("quarantined", "truncated"),
        "cut_short": ("rejected", "too_short"),
    }
    assert all(rows["dark"][name] is None for name in columns_of("score"))
    assert rows["dark"]["pose_model"] == "supplied" and rows["dark"]["num_source_frames"] == 72
    assert {"min_brightness", "max_blur"} <= set(rows["dark"]["unmeasured"].split(","))


def test_clips_of_an_evaluation_set_on_a_store_are_refused(bucket: str, dancers: Path, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket)
    upload_file(dancers / "clips" / "dancer_0.mp4", root / "set" / "deep" / "down.mp4")
    upload_file(dancers / "clips" / "dancer_0.txt", root / "set" / "label.txt")
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("dancer_0", "dancer_1"):
        for file in (dancers / "clips").glob(f"{name}.*"):
            (clips / file.name).symlink_to(file)
    rows = curate(clips, tmp_path / "out", exclude=f"{bucket}/set")
    assert (rows["dancer_0"]["reason"], rows["dancer_1"]["verdict"]) == ("max_leak_score", "ok")
    assert rows["dancer_0"]["leak_of"] == f"{bucket}/set/deep/down.mp4"
    load_excluded(f"{bucket}/set", 16.0).save(tmp_path / "set.npz")
    upload_file(tmp_path / "set.npz", root / "set.npz")
    assert load_excluded(f"{bucket}/set.npz", 16.0).names == [f"{bucket}/set/deep/down.mp4"]
    # Another set is another curation.
    upload_file(dancers / "clips" / "dark.mp4", root / "set" / "another.mp4")
    with pytest.raises(ArtifactError, match="excluded: "):
        curate(clips, tmp_path / "out", exclude=f"{bucket}/set")


def test_a_curation_that_took_sidecars_by_the_stem_is_a_parent_of_those_whose_sidecars_are_the_same(
    dancers: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("plain", "marked", "blank", "named", "own"):
        for suffix in (".mp4", ".pose.safetensors"):
            (clips / f"{name}{suffix}").symlink_to(dancers / "clips" / f"dark{suffix}")
        (clips / f"{name}.txt").write_text(f"{name} dances")
    parent = tmp_path / "parent"
    config = CONFIG.model_copy(update={"duplicates": CONFIG.duplicates.model_copy(update={"scope": "off"})})
    job.run(config, clips=str(clips), out=parent, engine=Engine(parent / ".engine", in_process=True))
    # What the version before wrote of other captions: no rules, replacement characters, a mark as a prompt.
    record = json.loads((parent / "clips" / "run.json").read_text())
    del record["rules"]
    (parent / "clips" / "run.json").write_text(json.dumps(record))
    then = {"marked": "\ufffd\ufffdm", "blank": "\ufeff"}
    for part in (parent / "measured").glob("part-*.parquet"):
        table = pq.read_table(part)
        names = [Path(path).stem for path in table["source_path"].to_pylist()]
        prompts = [then.get(name, prompt) for name, prompt in zip(names, table["prompt"].to_pylist(), strict=True)]
        place = table.schema.get_field_index("prompt")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(prompts, pa.string())), part)
    (clips / "marked.txt").write_bytes("marked dances".encode("utf-16"))
    (clips / "blank.txt").write_bytes(b"\xef\xbb\xbf\n")
    (clips / "own.mp4.pose.safetensors").write_bytes((dancers / "clips" / "dancer_0.pose.safetensors").read_bytes())
    (clips / "named.mp4.txt").write_text("by the full name")
    long_ago = 1e9
    for file in clips.iterdir():
        os.utime(file, (long_ago, long_ago), follow_symlinks=False)

    out = tmp_path / "out"
    engine = Engine(out / ".engine", in_process=True)
    made = job.run(config, clips=str(clips), out=out, engine=engine, parent=parent)
    rows = {Path(row["source_path"]).stem: row for row in Artifact(out / "clips").read().to_pylist()}
    assert {name: row["prompt"] for name, row in rows.items()} == {
        "plain": "plain dances", "marked": "marked dances", "blank": None, "named": "by the full name",
        "own": "own dances",
    }  # fmt: skip
    assert made["parent"]["sources_taken_over"] == 1
    record["rules"] = {"sidecars": 99}
    (parent / "clips" / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"with different rules:\n  sidecars: version 99 → 2"):
        job.plan(config, str(clips), tmp_path / "later", parent)
