import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from steadydancer.models.curation.aesthetics import aesthetic_head
from steadydancer.models.metrics.judges.interpolation import FrameInterpolator
from steadydancer.models.metrics.judges.musiq import MultiScaleQuality
from steadydancer.models.metrics.judges.vision_transformer import vit_base
from steadydancer.models.weights import lookup as weights
from steadydancer.models.weights.catalogue import local_folder, weights_dir


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_nothing_is_there_on_an_empty_machine() -> None:
    assert [(row.name, present) for row, present, _ in weights.check("tiny")] == [("blazepose", False)]
    names = [row.name for row, _, _ in weights.check("paper")]
    assert names[:7] == ["wan-480p", "wan-720p", "steadydancer", "dwpose", "yolox", "animal", "blazepose"]
    assert names[7:] == ["aesthetic-clip", "aesthetic-head", "amt"]
    assert all(weights.weight(name).is_optional for name in names[7:])
    assert not any(present for _, present, _ in weights.check("paper"))


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(weights.WeightsError, match="one_gpu, paper, tiny"):
        weights.check("huge")
    with pytest.raises(weights.WeightsError, match="blazepose"):
        weights.weight("blazpose")


def test_a_repository_counts_only_when_every_shard_of_every_index_is_there(empty_machine: Path) -> None:
    snapshot = empty_machine / "hub/models--Wan-AI--Wan2.1-I2V-14B-480P-Diffusers/snapshots/abc"
    for part in ("transformer", "text_encoder"):
        (snapshot / part).mkdir(parents=True)
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (snapshot / part / "model.safetensors.index.json").write_text(json.dumps(index))
        for shard in index["weight_map"].values():
            (snapshot / part / shard).write_bytes(b"")
    row = weights.weight("wan-480p")
    assert weights.find(row) == snapshot
    (snapshot / "transformer/model-2.safetensors").unlink()
    assert weights.find(row) is None


def test_a_folder_under_the_weights_folder_is_found_too(empty_machine: Path) -> None:
    folder = empty_machine / "weights/DWPose"
    folder.mkdir(parents=True)
    (folder / "yolox_l.onnx").write_bytes(b"")
    present = {row.name: present for row, present, _ in weights.check("paper")}
    assert present["yolox"]
    assert not present["dwpose"]


def test_the_aesthetic_pair_lies_in_one_folder_and_says_what_to_put_there(empty_machine: Path) -> None:
    clip, head = (weights.weight(name) for name in ("aesthetic-clip", "aesthetic-head"))
    assert local_folder(clip) == local_folder(head) == empty_machine / "weights/aesthetics"
    assert "open_clip_model.safetensors" in clip.remedy and "weights fetch aesthetic-clip" in clip.remedy
    local_folder(clip).mkdir(parents=True)
    (local_folder(clip) / "open_clip_model.safetensors").write_bytes(b"")
    assert weights.find(clip) == local_folder(clip) and weights.find(head) is None


def test_the_sizes_are_those_of_the_parameters() -> None:
    with torch.device("meta"):
        networks = {
            "aesthetic-head": aesthetic_head(),
            "amt": FrameInterpolator(),
            "dino": vit_base(),
            "musiq": MultiScaleQuality(),
        }
    for name, network in networks.items():
        assert weights.weight(name).num_bytes == 4 * sum(value.numel() for value in network.parameters())


def test_the_judges_of_an_evaluation_are_all_listed_and_optional() -> None:
    names = {row.name for row, _, _ in weights.check("evaluate")}
    assert names >= {"dino", "clip-vit-b-32", "clip-vit-l-14", "vbench-aesthetic-head", "musiq", "dreamsim", "amt"}
    assert all(weights.weight(name).is_optional for name in names)
    non_commercial = {name for name in names if weights.weight(name).is_non_commercial}
    assert non_commercial >= {"amt", "musiq"} and not non_commercial & {"dino", "clip-vit-b-32", "dreamsim"}


def test_a_file_with_another_digest_is_not_present(empty_machine: Path) -> None:
    folder = empty_machine / "weights/musiq"
    folder.mkdir(parents=True)
    (folder / "musiq_spaq_ckpt-358bb6af.pth").write_bytes(b"damaged")
    digest = hashlib.sha256(b"damaged").hexdigest()
    (answer,) = [(present, where) for row, present, where in weights.check("evaluate") if row.name == "musiq"]
    assert answer[0] is False and f"sha256 {digest}, expected 358bb6af" in answer[1]
    (folder / "musiq_spaq_ckpt-358bb6af.pth").rename(folder / "musiq_spaq_ckpt-358bb6af.safetensors")
    assert weights.find(weights.weight("musiq")) == folder  # the same parameters in another form, of no known digest
    assert next(present for row, present, _ in weights.check("evaluate") if row.name == "musiq")


def _served(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """The row `name` with the files of `folder` at its addresses."""
    row = weights.weight(name)
    sources = {file: (folder / url.rsplit("/", 1)[-1]).as_uri() for file, url in row.sources.items()}
    changed = dataclasses.replace(row, sources=sources, **changes)
    monkeypatch.setattr(weights, "CATALOGUE", tuple(changed if one is row else one for one in weights.CATALOGUE))


def test_files_are_fetched_from_their_authors_and_compared_with_their_digests(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_machine / "ViT-B-32.pt").write_bytes(b"parameters")
    _served(empty_machine, monkeypatch, "clip-vit-b-32")
    with pytest.raises(weights.WeightsError, match=r"clip-vit-b-32 was not stored: .* expected 40d36571"):
        weights.fetch("clip-vit-b-32")
    assert not list((empty_machine / "weights/clip-vit-b-32").iterdir())
    digest = hashlib.sha256(b"parameters").hexdigest()
    _served(empty_machine, monkeypatch, "clip-vit-b-32", sha256={"ViT-B-32.pt": digest})
    folder = weights.fetch("clip-vit-b-32")
    assert [path.name for path in folder.iterdir()] == ["ViT-B-32.pt"]
    (folder / "ViT-B-32.pt").write_bytes(b"damaged")
    assert (weights.fetch("clip-vit-b-32") / "ViT-B-32.pt").read_bytes() == b"parameters"


def test_of_an_archive_only_the_needed_files_are_kept(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = weights.weight("dreamsim")
    _served(empty_machine, monkeypatch, "dreamsim")
    with pytest.raises(weights.WeightsError, match=r"dreamsim could not be downloaded.*put clip_vitb16.*weights fetch"):
        weights.fetch("dreamsim")
    archive = empty_machine / row.addresses[0].rsplit("/", 1)[-1]
    names = [*row.alternatives[0], "dino_vitb16_pretrain.pth"]
    for count in (1, len(names)):
        with zipfile.ZipFile(archive, "w") as out:
            for name in names[:count]:
                out.writestr(name, name)
        if count == 1:
            with pytest.raises(weights.WeightsError, match="does not have all of"):
                weights.fetch("dreamsim")
    folder = weights.fetch("dreamsim")
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert kept == set(row.alternatives[0])


def test_set_judges_are_listed_with_what_is_known_of_their_files() -> None:
    names = {row.name for row, _, _ in weights.check("evaluate")}
    assert names >= {"inception-fid", "i3d", "i3d-kinetics-400", "i3d-videogpt", "lpips-vgg", "lpips-alex", "raft"}
    for row in map(weights.weight, names):
        assert row.is_optional and set(row.sha256) | set(row.sources) <= {file for one in row.file_sets for file in one}
        assert all(len(bytes.fromhex(digest)) in (4, 32) for digest in row.sha256.values())  # four: in a file's name


def test_lpips_is_put_together_from_two_places(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = weights.weight("lpips-alex")
    contents = {file: file.encode() for file in row.files}
    for file, url in row.sources.items():
        (empty_machine / url.rsplit("/", 1)[-1]).write_bytes(contents[file])
    served = {file: (empty_machine / url.rsplit("/", 1)[-1]).as_uri() for file, url in row.sources.items()}
    for digests in (row.sha256, {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}):
        changed = dataclasses.replace(row, sources=served, sha256=digests)
        monkeypatch.setattr(weights, "CATALOGUE", (changed,))
        if digests is row.sha256:
            with pytest.raises(weights.WeightsError, match="lpips-alex was not stored: .*expected 7be5be79"):
                weights.fetch("lpips-alex")
    folder = weights.fetch("lpips-alex")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


def _fake_pip(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes] | None) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if contents is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no index\n")
        with zipfile.ZipFile(cwd / "mediapipe.whl", "w") as wheel:
            for name, (member, _digest) in weights.BLAZEPOSE_FILES.items():
                wheel.writestr(member, contents[name])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", run)
    return calls


def test_fetched_once_then_left_alone(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {name: name.encode() for name in weights.BLAZEPOSE_FILES}
    digests = {
        name: (member, hashlib.sha256(contents[name]).hexdigest())
        for name, (member, _) in weights.BLAZEPOSE_FILES.items()
    }
    monkeypatch.setattr(weights, "BLAZEPOSE_FILES", digests)
    calls = _fake_pip(monkeypatch, contents)
    folder = weights.fetch_blazepose()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    assert weights.check("tiny")[0][1:] == (True, str(folder))
    weights.fetch_blazepose()
    assert len(calls) == 1
    (folder / "pose_detection.tflite").write_bytes(b"damaged")
    weights.fetch_blazepose()
    assert (folder / "pose_detection.tflite").read_bytes() == contents["pose_detection.tflite"]


def test_other_files_than_expected_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(monkeypatch, dict.fromkeys(weights.BLAZEPOSE_FILES, b"something else"))
    with pytest.raises(weights.WeightsError, match="sha256 differs"):
        weights.fetch_blazepose()
    assert not list((weights_dir() / "blazepose").iterdir())


def test_without_an_index_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(monkeypatch, None)
    with pytest.raises(weights.WeightsError, match=r"no index.*put pose_detection\.tflite"):
        weights.fetch_blazepose()


def _fake_hub(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        calls.append((repository, file))
        if error is not None:
            raise error
        hub = Path(huggingface_hub.constants.HF_HUB_CACHE)
        path = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_single_files_are_fetched_from_the_hub_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _fake_hub(monkeypatch)
    for name in ("animal", "yolox", "aesthetic-clip", "aesthetic-head", "amt"):
        folder = weights.fetch(name)
        row = weights.weight(name)
        assert folder == weights.find(row)
        assert all((folder / file).is_file() for file in row.files)
        assert weights.fetch(name) == folder
    assert calls == [
        ("JunkyByte/easy_ViTPose", "onnx/apt36k/vitpose-b-apt36k.onnx"),
        ("yzd-v/DWPose", "yolox_l.onnx"),
        ("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
        ("camenduru/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"),
        ("lalala125/AMT", "amt-s.pth"),
    ]


def test_without_a_hub_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_hub(monkeypatch, OSError("offline"))
    with pytest.raises(
        weights.WeightsError, match=r"dwpose could not be downloaded \(offline\)\. .*/DWPose: .*hf download yzd-v"
    ):
        weights.fetch("dwpose")
    with pytest.raises(weights.WeightsError, match="whole repository, .*hf download Wan-AI/"):
        weights.fetch("wan-480p")


def test_importing_the_catalogue_needs_no_torch() -> None:
    code = "import sys, steadydancer.models.weights as w; w.check('paper'); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
