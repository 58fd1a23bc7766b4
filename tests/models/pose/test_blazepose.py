import importlib.util
from pathlib import Path

import numpy as np
import pytest

from steadydancer.models.pose import blazepose
from steadydancer.models.pose.blazepose import BlazePose, Region
from steadydancer.models.pose.estimator import open_pose_estimator
from steadydancer.models.weights import lookup as weights

CLIP = Path(__file__).resolve().parents[4] / "shared" / "corpus" / "clips" / "dance_full_sky.mp4"


def test_anchors_are_cell_centres_at_three_strides() -> None:
    anchors = blazepose.anchors()
    assert anchors.shape == (2254, 2)
    assert anchors[0].tolist() == anchors[1].tolist() == [4, 4]
    assert anchors[2].tolist() == [12, 4]
    assert anchors[1568].tolist() == [8, 8]
    assert anchors[1568 + 392 + 5].tolist() == [16, 16]
    assert anchors[1568 + 392 + 6].tolist() == [48, 16]
    assert anchors[-1].tolist() == [208, 208]


def test_the_likeliest_detection_is_decoded_relative_to_its_anchor() -> None:
    boxes, logits = np.zeros((2254, 12), np.float32), np.full((2254, 1), -5, np.float32)
    assert blazepose.decode_detection(boxes, logits) is None
    boxes[2], logits[2] = np.arange(12), 3
    boxes[7], logits[7] = -np.arange(12), 1
    decoded = blazepose.decode_detection(boxes, logits)
    assert decoded is not None
    assert decoded.tolist() == [[12 + 4, 4 + 5], [12 + 6, 4 + 7]]


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (448, 448)])
def test_letterbox_keeps_aspect_and_says_how_to_go_back(shape: tuple[int, int]) -> None:
    frame = np.zeros((*shape, 3), np.uint8)
    row, column = shape[0] // 4, 3 * shape[1] // 4
    frame[row - 4 : row + 5, column - 4 : column + 5] = 255
    square, scale, margin = blazepose.letterbox(frame, 224)
    assert square.shape == (224, 224, 3)
    seen = np.argwhere(square[..., 0] > 100).mean(axis=0)[::-1]
    np.testing.assert_allclose((seen + 0.5 - margin) / scale, [column + 0.5, row + 0.5], atol=0.6)


def test_letterbox_shrinks_by_means() -> None:
    stripes = np.zeros((448, 224, 3), np.uint8)
    stripes[:, ::2] = 200
    square, scale, margin = blazepose.letterbox(stripes, 224)
    assert (scale, margin.tolist()) == (0.5, [56, 0])
    assert (square[:, 56:168] == 100).all() and not square[:, :56].any() and not square[:, 168:].any()


def test_a_region_is_centred_on_the_hips_and_turned_so_that_the_point_is_up() -> None:
    region = Region.around(np.array([50, 60], np.float32), np.array([90, 60], np.float32))  # lies with its head right
    matrix = region.to_image(256)
    corners = {(x, y): (matrix @ [x, y, 1]).round(6).tolist() for x in (0, 256) for y in (0, 256)}
    assert region.half_side == 50
    assert (matrix @ [128, 128, 1]).tolist() == [50, 60]
    assert corners == {(0, 0): [100, 10], (256, 0): [100, 110], (0, 256): [0, 10], (256, 256): [0, 110]}


def test_what_lies_up_is_up_in_the_crop() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[95:106, 135:146] = 255  # to the right of the hips at (100, 100), where the head of one who lies is
    crop = Region.around(np.array([100, 100], np.float32), np.array([140, 100], np.float32)).crop(image, 256)
    assert np.argwhere(crop[..., 0] > 128).mean(axis=0).round().tolist() == pytest.approx([128 - 102, 128], abs=2)


def test_landmarks_come_back_to_the_image_and_are_as_sure_as_their_weaker_logit() -> None:
    region = Region.around(np.array([40, 30], np.float32), np.array([40, 10], np.float32))
    rows = np.zeros((39, 5), np.float32)
    rows[:, :2] = 128
    rows[3] = [0, 256, 9, 4, -2]
    points, confidence = blazepose.decode_landmarks(rows.reshape(-1), region)
    assert points[0].tolist() == [40, 30]
    assert points[3].tolist() == [40 - 25, 30 + 25]
    assert confidence[0] == 0.5
    assert confidence[3] == pytest.approx(1 / (1 + np.exp(2)))


HIPS, HEAD, NOSE = (np.array(colour) for colour in ([0, 1, 0], [1, 0, 0], [0, 0, 1]))


def middle(picture: np.ndarray, colour: np.ndarray) -> np.ndarray | None:
    """x and y of the middle of what has that colour, in pixels; the picture is in [0, 1]."""
    marked = np.argwhere((np.abs(picture - colour) < 0.5).all(axis=-1))
    return marked.mean(axis=0)[::-1] + 0.5 if len(marked) else None


class Painted:
    """Stands for both networks, by the file's name: they see green hips, a red head and a blue nose."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.name = path.name

    def __call__(self, picture: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        assert picture.dtype == np.float32
        if self.name == "pose_detection.tflite":
            assert picture.shape == (224, 224, 3) and picture.min() == -1
            self.calls.append("detect")
            picture = (picture + 1) / 2
            hips, head = middle(picture, HIPS), middle(picture, HEAD)
            boxes, logits = np.zeros((2254, 12), np.float32), np.full((2254, 1), -9, np.float32)
            if hips is not None and head is not None:
                boxes[700, 4:8], logits[700] = np.concatenate([hips, head]) - np.tile(blazepose.anchors()[700], 2), 9
            return {(2254, 12): boxes, (2254, 1): logits}
        assert self.name == "pose_landmark_full.tflite"
        assert picture.shape == (256, 256, 3) and 0 <= picture.min() <= picture.max() <= 1
        self.calls.append("landmarks")
        found = [middle(picture, colour) for colour in (HIPS, HEAD, NOSE)]
        rows = np.full((39, 5), 9, np.float32)
        if any(point is None for point in found):
            return {(1,): np.array([0.49], np.float32), (195,): rows.reshape(-1)}
        hips, head, nose = found
        rows[:, :2] = hips
        rows[34, :2], rows[0, :2] = head, nose
        rows[16, 4], rows[15, 3] = -1, -0.5  # one wrist is out of the picture, the other one hidden
        rows[26, :2] = hips + 9 * (hips - head)  # a knee far below
        return {(1,): np.array([0.5], np.float32), (195,): rows.reshape(-1)}


def painted(hips: tuple[int, int] | None, *, head_right: bool = False) -> np.ndarray:
    """A picture of 120 × 80 with the head 20 above the hips, or to the right of them, the nose half way; or black."""
    frame = np.zeros((120, 80, 3), np.uint8)
    if hips is not None:
        for step, colour in ((0, HIPS), (10, NOSE), (20, HEAD)):
            x, y = (hips[0] + step, hips[1]) if head_right else (hips[0], hips[1] - step)
            frame[y - 3 : y + 4, x - 3 : x + 4] = 255 * colour
    return frame


def test_the_region_follows_the_landmarks_and_who_is_lost_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blazepose, "TFLiteModel", Painted)
    monkeypatch.setattr(Painted, "calls", [])
    places = [(20, 40), (26, 42), (60, 100), None, (40, 60)]
    frames = np.stack([*(painted(hips) for hips in places), painted((40, 60), head_right=True)])
    (track,) = BlazePose(Path("weights")).estimate(frames)
    first, followed, lost = ["detect", "landmarks"], ["landmarks"], ["landmarks", "detect", "landmarks"]
    nobody = ["landmarks", "detect"]
    assert Painted.calls == [*first, *followed, *lost, *nobody, *first, *followed]

    assert track.confidence.shape == (6, 18) and track.confidence.dtype == np.float32
    seen = np.array([hips for hips in (*places, (40, 60)) if hips is not None]) + 0.5
    body = track.pose.body[[0, 1, 2, 4, 5]] * (80, 120)
    np.testing.assert_allclose(body[:, 1], seen, atol=0.5)  # the neck, amid the shoulders, which are at the hips
    np.testing.assert_allclose(body[:4, 0], seen[:4] - (0, 10), atol=0.5)
    np.testing.assert_allclose(body[4, 0], seen[4] + (10, 0), atol=0.5)
    assert (track.pose.body[3] == -1).all() and not track.confidence[3].any() and not track.pose.body_visible[3].any()
    assert (track.pose.hands == -1).all() and track.pose.hands.shape == (6, 2, 21, 2)
    # Wrists that are not sure, and a knee below the picture, keep their places and are not visible.
    unseen = [np.flatnonzero(~visible).tolist() for visible in track.pose.body_visible[[0, 1, 2, 4, 5]]]
    assert unseen == [[4, 7, 9]] * 5
    np.testing.assert_allclose(body[0, 9], (20.5, 40.5 + 180), atol=2)
    np.testing.assert_allclose(track.confidence[0, [4, 7]], 1 / (1 + np.exp([1, 0.5])), rtol=1e-4)
    np.testing.assert_allclose(track.confidence[0, [0, 1, 9]], 1 / (1 + np.exp(-9)), rtol=1e-4)


def test_where_nobody_is_found_there_is_no_track(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blazepose, "TFLiteModel", Painted)
    estimator = BlazePose(Path("weights"))
    assert estimator.estimate(np.stack([painted(None)] * 2)) == []
    region = estimator._detect(painted((30, 70)))  # through a letterbox with margins at both sides
    assert region is not None
    np.testing.assert_allclose(region.centre, (30.5, 70.5), atol=0.5)
    np.testing.assert_allclose(region.up, (0, -1), atol=0.02)
    assert region.half_side == pytest.approx(1.25 * 20, abs=0.5)


def test_half_sure_is_sure_enough_for_a_detection_and_a_region_never_collapses() -> None:
    boxes, logits = np.zeros((2254, 12), np.float32), np.zeros((2254, 1), np.float32)
    assert blazepose.decode_detection(boxes, logits) is not None
    assert blazepose.decode_detection(boxes, logits - 1e-3) is None
    region = Region.around(np.array([5, 5], np.float32), np.array([5, 5.5], np.float32))
    assert region.half_side == 1.25


def _blazepose() -> BlazePose:
    if weights.find(weights.weight("blazepose")) is None or importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("BlazePose's files or the package that runs them are not on this machine")
    estimator = open_pose_estimator("blazepose")
    assert isinstance(estimator, BlazePose)
    return estimator


def test_blazepose_finds_nobody_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 60, 3), dtype=np.uint8)
    assert _blazepose().estimate(noise) == []


def test_blazepose_follows_a_dancer() -> None:
    if not CLIP.is_file():
        pytest.skip("the corpus of real clips is not on this machine")
    from steadydancer.datasets.video import decode

    frames = decode(CLIP, np.arange(10) * 0.5)
    frames = np.concatenate([frames, np.zeros_like(frames[:1])])
    (track,) = _blazepose().estimate(frames)
    assert track.pose.body_visible[:10].all(axis=1).mean() >= 0.9
    assert not track.pose.body_visible[10].any()  # the black frame
    assert (track.pose.body[10] == -1).all()
    y = track.pose.body[:10, :, 1]
    nose, hips, ankles = y[:, 0], y[:, [8, 11]].mean(axis=1), y[:, [10, 13]].mean(axis=1)
    assert ((nose < hips) & (hips < ankles)).all()
    # She faces the camera: her right shoulder is on the left of the picture.
    assert (track.pose.body[:10, 2, 0] < track.pose.body[:10, 5, 0]).mean() >= 0.9


def test_blazepose_sees_the_same_body_wherever_it_stands_and_when_it_lies() -> None:
    if not CLIP.is_file():
        pytest.skip("the corpus of real clips is not on this machine")
    from steadydancer.datasets.video import decode

    estimator, frame = _blazepose(), decode(CLIP, np.array([1.0]))[0]
    upright = estimator.estimate(frame[None])[0].pose.body[0]
    lying = estimator.estimate(np.rot90(frame)[None].copy())[0].pose.body[0]  # turned to the left
    np.testing.assert_allclose(np.stack([1 - lying[:, 1], lying[:, 0]], axis=1), upright, atol=0.03)
