"""Small networks behind DWPose's two files: a person detector as YOLOX, and whole-body keypoints as RTMPose.

Inputs and outputs are those that rtmlib expects, so `models.pose.DWPose` runs these files exactly as the released ones:
only the sizes differ, and rtmlib reads them from the file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CROP_WIDTH, CROP_HEIGHT = 96, 128  # input of the keypoint network
DETECTOR_SIDE = 64
NUM_KEYPOINTS = 133  # COCO-WholeBody
NUM_CLASSES = 80  # COCO; only the first one, person, is ever found
STRIDES = (8, 16, 32)  # of YOLOX's cells; persons are found in the first grid
SPLIT = 2  # positions per pixel of the crop
BLUR_BINS = 3.0  # standard deviation of the target over the positions of an axis


class KeypointNetwork(nn.Module):
    """Find 133 keypoints in a crop: responses along x [N,133,192] and y [N,133,256] whose maximum is the visibility."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 2), _Residual(width))
        self.middle = nn.Sequential(_conv(width, 2 * width, 2), _Residual(2 * width), _Residual(2 * width))
        self.coarse = nn.Sequential(_conv(2 * width, 3 * width, 2), _Residual(3 * width), _Residual(3 * width))
        self.context = nn.Linear(3 * width, 2 * width)
        self.lateral = nn.Conv2d(3 * width, 2 * width, 1)
        self.joined = _Residual(2 * width)
        self.maps = nn.Conv2d(2 * width, NUM_KEYPOINTS, 1)
        self.hidden = nn.Linear(CROP_WIDTH // 4 * CROP_HEIGHT // 4, 128)
        self.x = nn.Linear(128, SPLIT * CROP_WIDTH)
        self.y = nn.Linear(128, SPLIT * CROP_HEIGHT)
        self.visibility = nn.Linear(128, 1)

    def logits(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits over the positions of x and y, and of the visibility [N,133], of crops [N,3,128,96]."""
        middle = self.middle(self.stem(crops))
        coarse = self.coarse(middle)
        context = self.context(coarse.mean(dim=(2, 3)))[:, :, None, None]
        up = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        features = self.joined(middle + up + context)
        hidden = F.gelu(self.hidden(self.maps(features).flatten(2)))
        return self.x(hidden), self.y(hidden), self.visibility(hidden)[..., 0]

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return RTMPose's two outputs for crops [N,3,128,96], normalised as RTMPose's."""
        x, y, visibility = self.logits(crops)
        peak = visibility.sigmoid()[..., None]
        return x.sub(x.amax(-1, keepdim=True)).exp() * peak, y.sub(y.amax(-1, keepdim=True)).exp() * peak


def keypoint_loss(network: KeypointNetwork, crops: Tensor, points: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropy of visible points [N,133,2], in pixels of the crop, and of the visibility [N,133]."""
    x, y, logits = network.logits(crops)
    seen = visible.float()
    places = (_cross_entropy(x, points[..., 0] * SPLIT) + _cross_entropy(y, points[..., 1] * SPLIT)) * seen
    located = places.sum() / seen.sum().clamp(min=1)
    found = F.binary_cross_entropy_with_logits(logits, seen)
    return {"loss": located + 2 * found, "places": located.detach(), "visibility": found.detach()}


def _cross_entropy(logits: Tensor, centres: Tensor) -> Tensor:
    """Return the cross-entropy [N,K] to a Gaussian of `BLUR_BINS` around the centres, in positions."""
    bins = torch.arange(logits.shape[-1], device=logits.device)
    target = torch.softmax(-((bins - centres[..., None]) ** 2) / (2 * BLUR_BINS**2), dim=-1)
    return -(target * logits.log_softmax(-1)).sum(-1)


class PersonDetector(nn.Module):
    """Find persons in a picture [N,3,64,64] of 0…255: YOLOX's rows [N,84,85] of its three grids."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(3, width, 2),
            _Residual(width),
            _conv(width, 2 * width, 2),
            _Residual(2 * width),
            _conv(2 * width, 4 * width, 2),
            _Residual(4 * width),
        )
        self.context = nn.Linear(4 * width, 4 * width)
        self.joined = _Residual(4 * width)
        self.head = nn.Conv2d(4 * width, 5, 1)

    def cells(self, pictures: Tensor) -> Tensor:
        """Return centre offset, log size (in cells) and the logit of a person [N,5,8,8]."""
        features = self.features(pictures / 127.5 - 1)
        return self.head(self.joined(features + self.context(features.mean(dim=(2, 3)))[:, :, None, None]))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return YOLOX's output: centre, log size, objectness and 80 classes of each cell."""
        cells = self.cells(pictures).flatten(2).transpose(1, 2)
        count = pictures.shape[0]  # `len` would fix the batch size of the exported file
        coarse = sum((DETECTOR_SIDE // stride) ** 2 for stride in STRIDES[1:])
        person = torch.ones_like(cells[:, :, :1])
        others = torch.zeros_like(person).expand(-1, -1, NUM_CLASSES - 1)
        found = torch.cat([cells[..., :4], cells[..., 4:].sigmoid(), person, others], dim=2)
        return torch.cat([found, found.new_zeros(count, coarse, 5 + NUM_CLASSES)], dim=1)


def detector_loss(detector: PersonDetector, pictures: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
    """Return the loss of boxes [P,4] (x1, y1, x2, y2 in pixels of the input) of each picture.

    The cell with the centre of a box finds it. Its neighbours are not asked, because they see the same person.
    """
    cells = detector.cells(pictures)
    target = torch.zeros_like(cells[:, 4])
    asked = torch.ones_like(target)
    errors = []
    stride, last = STRIDES[0], DETECTOR_SIDE // STRIDES[0] - 1
    for picture, persons in enumerate(boxes):
        for x1, y1, x2, y2 in persons.tolist():
            centre_x, centre_y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            column, row = (min(max(int(place), 0), last) for place in (centre_x, centre_y))
            asked[picture, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
            size = torch.tensor([max(x2 - x1, 1.0), max(y2 - y1, 1.0)]).div(stride).log()
            wanted = torch.cat([torch.tensor([centre_x - column, centre_y - row]), size])
            errors.append(F.smooth_l1_loss(cells[picture, :4, row, column], wanted, beta=0.1))
            target[picture, row, column] = 1
    asked = torch.maximum(asked, target)
    objectness = F.binary_cross_entropy_with_logits(cells[:, 4], target, weight=asked * (1 + 8 * target))
    box = torch.stack(errors).mean() if errors else cells.sum() * 0
    return {"loss": objectness + box, "objectness": objectness.detach(), "box": box.detach()}


def _conv(channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _conv(channels, channels), nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.block(features))
