"""Metrics of what should stay over time: identity, by two judges, and the background."""

from dataclasses import replace

from .entry import Better, Metric

FACE, PERSON_CROP = "dlib-face", "efficientnet-lite0,person-crop"  # judges of identity

_IDENTITY: dict[str, tuple[str, Better, str]] = {
    "identity": ("", "higher", "mean over the frames in which it is found"),
    "identity_min": ("", "higher", "the smallest"),
    "identity_p5": ("", "higher", "5th percentile"),
    "identity_slope": ("1/s", "higher", "change per second"),
    "identity_last_quarter": ("", "higher", "mean of the last quarter"),
    "identity_found": ("share", "", "frames in which it is found"),
}
OVER_TIME = tuple(_IDENTITY)
"""Names of the metrics over time, in the order of `models.metrics.IdentityOverTime`."""


def identity(group: str, judge: str, unit: str, what: str) -> list[Metric]:
    """Return the metrics of one judge; two judges are two variants, which are never mixed."""
    one = Metric("", group, unit, "higher", "", ("reference",))
    return [
        *(
            replace(one, name=f"{name}[{judge}]", unit=own or unit, better=better, meaning=f"{what}: {words}")
            for name, (own, better, words) in _IDENTITY.items()
        ),
        replace(
            one,
            name=f"identity[{judge},ceiling]",
            better="",
            ceiling_of=f"identity[{judge}]",
            needs=("driving",),
            meaning="different frames of the driving video against each other",
        ),
        replace(
            one,
            name=f"identity[{judge},floor]",
            better="",
            level="set",
            tables=("sets",),
            meaning="the reference images of different people against each other",
        ),
    ]


def background() -> list[Metric]:
    """Return the metrics of the background."""
    one = Metric("background_drift", "background", "0..1", "lower", "", ("driving",))
    return [
        replace(
            one, meaning="mean change of the background against frame 0; only where the driving camera stands still"
        ),
        replace(one, name="background_drift[driving]", better="", meaning="the same of the driving video itself"),
        replace(one, name="camera_travel", unit="diagonals", better="", meaning="way of the driving camera"),
    ]
