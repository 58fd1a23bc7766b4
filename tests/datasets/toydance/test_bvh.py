"""BVH files: a tiny one whose joints are known, broken ones, and the real ones where they are present."""

from pathlib import Path

import numpy as np
import pytest

from steadydancer.datasets.toydance.bvh import read_bvh
from steadydancer.datasets.toydance.figure import joints_of
from steadydancer.datasets.toydance.render import render
from steadydancer.datasets.toydance.retarget import dance_from_bvh
from steadydancer.datasets.toydance.scenes import make_scene

REAL = Path(__file__).resolve().parents[4] / "shared" / "corpus" / "bvh"


def write_person(path: Path, num_frames: int = 12, up: str = "y") -> Path:
    """A person of straight lines; the left arm rises from level to straight up, the person moves to its left."""

    def point(x, y, z):
        return f"{x} {y} {z}" if up == "y" else f"{z} {x} {y}"

    rows, channels = [], []

    def joint(name, offset, children, root=False):
        rows.append(f"{'ROOT' if root else 'JOINT'} {name}\n{{\nOFFSET {point(*offset)}")
        rotations = "Zrotation Xrotation Yrotation" if up == "y" else "Xrotation Yrotation Zrotation"
        places = "Xposition Yposition Zposition "
        rows.append(f"CHANNELS 6 {places}{rotations}" if root else f"CHANNELS 3 {rotations}")
        channels.append(name)
        for child in children:
            joint(*child)
        if not children:
            rows.append(f"End Site\n{{\nOFFSET {point(0, 5, 0)}\n}}")
        rows.append("}")

    def arm(side, sign):
        hand = (f"{side}Hand", (sign * 25, 0, 0), [])
        return (f"{side}Arm", (sign * 15, 40, 0), [(f"{side}ForeArm", (sign * 30, 0, 0), [hand])])

    def leg(side, sign):
        foot = (f"{side}Foot", (0, -40, 0), [])
        return (f"{side}UpLeg", (sign * 10, 0, 0), [(f"{side}Leg", (0, -40, 0), [foot])])

    joint(
        "Hips",
        (0, 0, 0),
        [("Head", (0, 55, 0), []), arm("Left", 1), arm("Right", -1), leg("Left", 1), leg("Right", -1)],
        True,
    )
    motion = []
    for frame in range(num_frames):
        share = frame / (num_frames - 1)
        values = point(20 * share, 85, 0).split()
        for name in channels:
            # The first rotation of a joint is about the axis that points to the front.
            values += [str(90 * share) if name == "LeftArm" else "0", "0", "0"]
        motion.append(" ".join(values))
    text = "HIERARCHY\n" + "\n".join(rows) + f"\nMOTION\nFrames: {num_frames}\nFrame Time: 0.0625\n" + "\n".join(motion)
    path.write_text(text + "\n")
    return path


@pytest.mark.parametrize("up", ["y", "z"])
def test_a_tiny_person_is_read_and_danced(tmp_path, up):
    motion = read_bvh(write_person(tmp_path / "person.bvh", up=up))
    assert motion.frame_s == 0.0625 and len(motion.values) == 12
    names = [joint.name for joint in motion.joints]
    positions, _ = motion.solve()
    hand, hips = positions[:, names.index("LeftHand")], positions[:, names.index("Hips")]
    order = [0, 1, 2] if up == "y" else [1, 2, 0]
    np.testing.assert_allclose((hand - hips)[0][order], [70, 40, 0], atol=1e-9)
    np.testing.assert_allclose((hand - hips)[-1][order], [15, 95, 0], atol=1e-9)

    body = make_scene(1, "easy", 1).main.look.body
    dance = dance_from_bvh(motion, body, 12, 16)
    np.testing.assert_allclose(dance.upper_arms[0], [[1, 0, 0], [-1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(dance.upper_arms[-1], [[0, -1, 0], [-1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(dance.thighs, np.tile([0.0, 1, 0], (12, 2, 1)), atol=1e-9)
    np.testing.assert_allclose(dance.head, np.tile(np.eye(3), (12, 1, 1)), atol=1e-9)
    # 20 units to the left, where a leg of 80 units is as long as the body's.
    np.testing.assert_allclose(dance.path[-1], [20 / 80 * body.leg, 0], atol=1e-9)
    joints = joints_of(body, dance)
    assert np.linalg.norm(joints[:, 5] - joints[:, 6], axis=-1) == pytest.approx(body.arm)


def test_a_motion_that_is_too_short_or_has_other_joints_is_refused(tmp_path):
    path = write_person(tmp_path / "person.bvh")
    body = make_scene(1, "easy", 1).main.look.body
    with pytest.raises(ValueError, match=r"the motion lasts 0\.69 s, expected at least 2\.00 s"):
        dance_from_bvh(read_bvh(path), body, 33, 16)
    path.write_text(path.read_text().replace("LeftForeArm", "Tentacle"))
    with pytest.raises(ValueError, match="expected Head, LeftArm, LeftForeArm, LeftHand"):
        dance_from_bvh(read_bvh(path), body, 5, 16)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("HIERARCHY", "HIERARCHIE", "'HIERARCHIE' where HIERARCHY is expected"),
        ("OFFSET 0 55 0", "OFFSET 0 x 0", "could not convert"),
        ("OFFSET 0 55 0", "OFFSET 0 nan 0", "offset of Head is not finite"),
        ("Zrotation Xrotation Yrotation", "Zrotation Xrotation Wrotation", "channels are"),
        ("Frames: 12", "Frames: 13", "values, expected 13 frames"),
        ("Frames: 12", "Frames: 0", "expected at least one"),
        ("Frame Time: 0.0625", "Frame Time: -1", "positive time"),
        ("MOTION", "", "where MOTION is expected"),
        ("JOINT Head", "BONE Head", "'BONE' in the hierarchy"),
    ],
)
def test_a_malformed_file_gives_one_clear_error(tmp_path, old, new, reason):
    path = write_person(tmp_path / "person.bvh")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"person\.bvh is not a valid BVH file") as error:
        read_bvh(path)
    assert reason in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
def test_a_file_that_ends_early_gives_the_same_error(tmp_path, share):
    path = write_person(tmp_path / "person.bvh")
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ValueError, match=r"person\.bvh is not a valid BVH file"):
        read_bvh(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"person\.bvh is not a valid BVH file"):
        read_bvh(path)


@pytest.mark.parametrize("name", ["dab", "jesse_dance", "jumping", "jumping_jacks", "wave_hello", "zombie"])
def test_real_motions_can_be_danced(name):
    path = REAL / f"{name}.bvh"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the corpus of this machine")
    body = make_scene(4, "easy", 1).main.look.body
    dance = dance_from_bvh(read_bvh(path), body, 33, 16)
    for directions in (dance.upper_arms, dance.forearms, dance.thighs, dance.shins):
        np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
    assert dance.spine[:, 1].min() > 0.5  # upright
    scene = make_scene(4, "easy", 33, dance=dance)
    assert (np.abs(scene.main.figure.pose.body - 0.5) < 0.6).all()
    assert render(scene, 32, 32).masks.any(axis=(1, 2)).all()
