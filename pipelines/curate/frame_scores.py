"""What frames say about a clip: cuts, exposure, sharpness, blur. Numpy and OpenCV, no network.

Frames are uint8 [F, H, W, 3] RGB.
"""

import cv2
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


def histogram_change(frames: Frames) -> npt.NDArray[np.float64]:
    """Half the L1 distance of neighbouring frames' HSV histograms: [F − 1], 0 (same colours) to 1 (none in common).

    A dancer who moves keeps the picture's colours, a cut does not.
    """
    histograms = []
    for frame in frames:
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        histogram = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], [0, 180, 0, 256, 0, 256])
        # A bin's border must not turn a small drift of brightness into a cut.
        histogram = cv2.GaussianBlur(histogram.reshape(12, 32), (3, 3), 0).ravel()
        histograms.append(histogram / histogram.sum())
    return np.abs(np.diff(np.asarray(histograms, dtype=np.float64), axis=0)).sum(axis=1) / 2


def luma_change(frames: Frames) -> npt.NDArray[np.float64]:
    """Mean absolute change of luma between neighbouring frames: [F − 1], 0..1."""
    luma = luma_of(frames)
    return np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))


def find_cuts(change: npt.NDArray[np.float64], threshold: float) -> list[int]:
    """Indices of frames that open a new shot: the change is large, and large beside its neighbourhood.

    Args:
        change: `histogram_change` of the whole source, [F − 1].
        threshold: least change that can be a cut, 0..1.
    """
    cuts = []
    for i in map(int, np.flatnonzero(change > threshold)):
        neighbours = np.delete(change[max(0, i - 4) : i + 5], min(i, 4))
        # Flashing lights and shaken cameras change every frame; a cut stands alone.
        if neighbours.size == 0 or change[i] > 2.5 * np.median(neighbours):
            cuts.append(i + 1)
    return cuts


def luma_of(frames: Frames) -> npt.NDArray[np.float32]:
    """Luma (BT.601) of RGB frames: [F, H, W], 0..1."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    return grey.astype(np.float32) / np.float32(255)


def technical_scores(frames: Frames) -> dict[str, float]:
    """Brightness, contrast, colourfulness, sharpness and their summary `technical_quality`, means over frames.

    The summary is a technical score and no aesthetic one: the geometric mean of exposure (1 between 25 % and 85 % of
    full brightness), contrast (1 from 0.2 on) and sharpness (1 from 0.01 on), each cut to 0..1.
    """
    luma = luma_of(frames)
    scale = 256 / min(luma.shape[1:])
    sharpness = [
        cv2.Laplacian(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.CV_32F).var()
        for image in luma
    ]
    rgb = frames.astype(np.float32)
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    spread = np.hypot(red_green.std(axis=(1, 2)), yellow_blue.std(axis=(1, 2)))
    centre = np.hypot(red_green.mean(axis=(1, 2)), yellow_blue.mean(axis=(1, 2)))
    out = {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std(axis=(1, 2)).mean()),
        "colourfulness": float((spread + 0.3 * centre).mean() / 255),
        "sharpness": float(np.mean(sharpness)),
    }
    exposure = np.clip(min(out["brightness"] / 0.25, (1 - out["brightness"]) / 0.15), 0, 1)
    parts = (exposure, min(out["contrast"] / 0.2, 1), min(out["sharpness"] / 0.01, 1))
    out["technical_quality"] = float(np.prod(parts) ** (1 / 3))
    return out


def blur(frames: Frames) -> float:
    """How blurred frames are, mean over them: 0 (sharp) to 1; a short side above 256 pixels is scaled down.

    Crété-Roffet and others, "The blur effect" (2007): a blurred picture hardly changes when it is blurred once more.
    Unlike the Laplacian's variance it does not depend on how much of the picture is plain.
    """
    values = []
    for image in luma_of(frames):
        scale = min(1.0, 256 / min(image.shape))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for axis, kernel in ((0, (1, 9)), (1, (9, 1))):
            steps = np.abs(np.diff(small, axis=axis))
            left = np.abs(np.diff(cv2.blur(small, kernel), axis=axis))
            lost = np.maximum(0, steps - left).sum()
            values.append(1 - float(lost / max(steps.sum(), 1e-6)))
    # The blurrier direction counts: a moved camera blurs one of them.
    return float(np.mean(np.max(np.reshape(values, (-1, 2)), axis=1)))
