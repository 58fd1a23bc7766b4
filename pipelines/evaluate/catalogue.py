"""Catalogue of metrics: name, unit, direction, meaning, and what each one needs. `families` has the metrics.

A group is a set of metrics that are measured together, from the same networks. The variant of a metric stands in
brackets: values of two variants are different metrics.
"""

from collections.abc import Mapping

from .families import identity, pictures, pose, sets, vbench
from .families.entry import Group, Metric
from .families.identity import FACE, PERSON_CROP
from .families.pose import CEILINGS
from .families.sets import I3D_WEIGHTS, fvd_group

__all__ = ["CEILINGS", "FACE", "GROUPS", "METRICS", "PERSON_CROP", "TABLES", "Group", "Metric", "fvd_group"]

_GROUPS = (
    Group("first_frame", "First frame"),
    Group("truth", "Against the ground truth"),
    Group("pixels", "Change from frame to frame"),
    Group("pose", "Pose following", estimator=True),
    Group("dino", "VBench: DINO", (("dino",),)),
    Group("clip", "VBench: CLIP", (("clip-vit-b-32",),)),
    Group("aesthetic", "VBench: aesthetic quality", (("clip-vit-l-14",), ("vbench-aesthetic-head",))),
    Group("musiq", "VBench: imaging quality", (("musiq",),)),
    Group("dreamsim", "VBench: DreamSim", (("dreamsim",),)),
    Group("amt", "VBench: motion smoothness", (("amt",),)),
    Group("raft", "VBench: dynamic degree", (("raft",),)),
    Group("efficientnet", "ImageNet backbone from a package", (("efficientnet-lite0",),)),
    Group("lpips-vgg", "LPIPS, VGG16", (("lpips-vgg",),)),
    Group("lpips-alex", "LPIPS, AlexNet", (("lpips-alex",),)),
    Group("inception", "Inception", (("inception-fid",),)),
    Group("i3d", "I3D", (I3D_WEIGHTS,)),
    Group("i3d-videogpt", "I3D, VideoGPT's file", (("i3d-videogpt",),)),
    Group("face", "Identity over time, by the face", (("dlib-face",),)),
    Group(
        "person-crop", "Identity over time, by the whole person", (("efficientnet-lite0",), ("selfie-segmentation",))
    ),
    Group("background", "Background", (("selfie-segmentation",),)),
)
GROUPS: Mapping[str, Group] = {group.name: group for group in _GROUPS}
# Tables that hold metrics of several groups.
TABLES = {
    "basic": "Without networks",
    "vbench": "VBench-I2V, with motion_ratio and dynamic_degree beside it: six of the eight reward stillness",
    "sets": "Distances between sets",
}

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *pictures.first_frame(),
        *pictures.against_truth(),
        *pictures.change(),
        *pose.pose(),
        *vbench.vbench(),
        *pictures.lpips(),
        *vbench.efficientnet(),
        *identity.identity("face", FACE, "1 − distance", "likeness of the face to that of the reference"),
        *identity.identity(
            "person-crop", PERSON_CROP, "cosine", "likeness of the person's crop to that of the reference"
        ),
        *identity.background(),
        *sets.sets(),
    )
}
