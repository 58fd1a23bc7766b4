import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from steadydancer.models.curation.aesthetics import aesthetic_head
from steadydancer.models.curation.motion_smoothness import FrameInterpolator
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
    networks = {"aesthetic-head": aesthetic_head(), "amt": FrameInterpolator()}
    for name, network in networks.items():
        assert weights.weight(name).num_bytes == 4 * sum(value.numel() for value in network.parameters())


def test_set_judges_are_listed_with_what_is_known_of_their_files() -> None:
    names = {row.name for row, _, _ in weights.check("evaluate")}
    assert names >= {"inception-fid", "i3d", "i3d-kinetics-400", "i3d-videogpt", "lpips-vgg", "lpips-alex", "raft"}
    for row in map(weights.weight, names):
        assert row.is_optional and set(row.sha256) | set(row.sources) <= {file for one in row.file_sets for file in one}
        assert all(len(bytes.fromhex(digest)) == 32 for digest in row.sha256.values())


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
