"""VBench's dimensions, and two of them on a backbone from a package, which are other metrics."""

from dataclasses import replace

from .entry import Metric


def vbench() -> list[Metric]:
    """Return VBench's dimensions, on its own networks."""
    one = Metric("", "", "0..1", "higher", "", tables=("vbench",))
    steady = "similarity of a frame to the one before and to frame 0"
    image = "similarity to the reference image, and of neighbouring frames"
    return [
        replace(one, name="subject_consistency", group="dino", weighted="steps", meaning=f"{steady} (DINO ViT-B/16)"),
        replace(
            one, name="background_consistency", group="clip", weighted="steps", meaning=f"{steady} (CLIP ViT-B/32)"
        ),
        replace(one, name="motion_smoothness", group="amt", meaning="how well AMT-S interpolates every other frame"),
        replace(one, name="aesthetic_quality", group="aesthetic", meaning="LAION's linear head on CLIP ViT-L/14"),
        replace(
            one,
            name="imaging_quality",
            group="musiq",
            unit="0..100",
            meaning="MUSIQ-SPAQ, mean over frames; VBench prints it / 100",
        ),
        replace(one, name="i2v_subject", group="dino", needs=("reference",), meaning=f"{image} (DINO ViT-B/16)"),
        replace(one, name="i2v_background", group="dreamsim", needs=("reference",), meaning=f"{image} (DreamSim)"),
        replace(
            one,
            name="dynamic_degree",
            group="raft",
            unit="share",
            better="",
            meaning="1 if the clip moves, by RAFT's flow",
        ),
    ]


def efficientnet() -> list[Metric]:
    """Return the metrics on an ImageNet backbone from a package."""
    one = Metric("", "efficientnet", "0..1", "higher", "")
    words = "with an ImageNet backbone from a package: not VBench's value"
    return [
        replace(
            one,
            name="subject_consistency[efficientnet-lite0]",
            weighted="steps",
            meaning=f"over time, {words}",
        ),
        replace(
            one,
            name="i2v_subject[efficientnet-lite0]",
            needs=("reference",),
            meaning=f"similarity to the reference, {words}",
        ),
    ]
