"""Protocols: named sets of rules by which videos are scored. Results of two protocols are never compared.

A protocol states which frames count, how a video of another rate or size is treated, and which variants of a metric
are computed. Its digest covers every field, so that two results have equal digests only if all rules are equal.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ... import SteadyDancerError
from ...datasets.arrays import Floats64, Integers
from ...datasets.storage.digests import format_differences, json_digest
from ...datasets.video.writer import Chroma
from ...models.metrics.variants import FID_VARIANTS, FVD_VARIANTS, LPIPS_VARIANTS, PACKAGED_FID, variant_of

SsimVariant = Literal["zero-gauss11", "reflect-gauss11", "interior-gauss11", "gray-uniform7"]
Filter = Literal["decoder", "pil-bilinear", "pil-bicubic"]
# Names of the variants, without the metric: models.metrics.variants says what each one is.
LPIPS = tuple(map(variant_of, LPIPS_VARIANTS))
FID = tuple(map(variant_of, (*FID_VARIANTS, PACKAGED_FID)))
FVD = tuple(map(variant_of, FVD_VARIANTS))
# Rates within 1 % are the same rate: 29.97 and 30.
SAME_RATE = 0.01
SLACK_S = 0.001


class Codec(BaseModel):
    """A codec through which the truth passes before it is compared, because the renders have passed through it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["h264"] = "h264"
    crf: int = Field(18, ge=0, le=51, description="constant rate factor")
    chroma: Chroma = "4:2:0"


class Refused(Exception):
    """A video that the protocol does not admit.

    Args:
        reason: `too_short` or `other_fps`.
        detail: explanation.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Selection(NamedTuple):
    """Positions of the scored frames in a render [n], in order, and remarks on them."""

    frames: Integers
    notes: tuple[str, ...]


class Protocol(BaseModel):
    """Rules of a comparison. Every field is part of the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, description="name in tables and messages")
    version: int = Field(1, ge=1, description="raised with every change of a rule")
    description: str = Field("", description="origin, in a sentence")
    clips: tuple[str, ...] | None = Field(None, description="ids of the scored clips; null: all that are given")

    num_frames: int | None = Field(None, ge=1, description="frames that are scored; null: all")
    position: Literal["first", "middle"] = Field("first", description="which frames of a longer render are scored")
    stride: int = Field(1, ge=1, description="every how-manieth frame of the driving clip is scored")
    rendered: Literal["every-frame", "scored-frames"] = Field(
        "every-frame", description="whether a render holds every frame of the driving clip or only the scored ones"
    )
    short_clip: Literal["fewer-frames", "smaller-stride", "refuse"] = Field(
        "fewer-frames", description="what is done with a clip that has too few frames"
    )
    fps: float | None = Field(None, gt=0, description="frames per second at which renders are scored; null: their own")
    other_fps: Literal["resample", "refuse"] = Field(
        "resample", description="a render or truth at another rate is sampled by time, or not scored"
    )

    reference_index: int | None = Field(
        None, ge=0, description="which scored frame of the truth is the reference of a pair without an image"
    )
    score_first_frame: bool = Field(True, description="whether frame 0 is compared with the truth")

    height: int | None = Field(None, ge=16, description="height at which videos are scored, px; null: the render's")
    width: int | None = Field(None, ge=16, description="width at which videos are scored, px; null: the render's")
    render_filter: Filter = Field("decoder", description="filter that brings renders to that size")
    truth_filter: Filter = Field("decoder", description="filter that brings truths to that size")
    fit: Literal["refuse", "stretch", "crop"] = Field(
        "refuse", description="a truth of another aspect is not compared, stretched, or cropped at its centre"
    )
    codec: Codec | None = Field(None, description="the truth passes through this codec first; null: as its file is")

    ssim: tuple[SsimVariant, ...] = ("zero-gauss11", "reflect-gauss11", "interior-gauss11", "gray-uniform7")
    lpips: tuple[str, ...] = LPIPS
    fid: tuple[str, ...] = FID
    fvd: tuple[str, ...] = FVD
    antialias: bool = Field(True, description="whether i2v_* resize frames with antialiasing (torchvision from 0.17)")
    aggregation: Literal["video", "frame"] = Field("video", description="a set's mean weighs videos or frames equally")

    @model_validator(mode="after")
    def _check(self) -> "Protocol":
        if (self.height is None) != (self.width is None):
            raise ValueError(f"give height and width together, not {self.height} and {self.width}")
        for field, known in (("lpips", LPIPS), ("fid", FID), ("fvd", FVD)):
            if unknown := set(getattr(self, field)) - set(known):
                raise ValueError(f"{field} has no variant {min(unknown)!r}: choose among {known}")
        return self

    @property
    def digest(self) -> str:
        """Sha256 of all fields."""
        return json_digest(self.model_dump(mode="json"))

    def select(self, times_s: Floats64) -> Selection:
        """Select the frames of a render that are scored.

        Args:
            times_s: [n], times of its frames.

        Raises:
            Refused: the render has another rate, or too few frames.
        """
        frames, notes = self._at_rate(times_s)
        stride = self.stride if self.rendered == "every-frame" else 1
        wanted = self.num_frames
        if wanted is None:
            return Selection(frames[::stride], notes)
        if self.short_clip == "smaller-stride":
            stride = self._fitting_stride(len(frames), stride)
        span = (wanted - 1) * stride + 1
        if len(frames) < span:
            if self.short_clip == "refuse":
                raise Refused("too_short", f"{len(frames)} frames, but the protocol {self.name} needs {span}")
            return Selection(frames[::stride][:wanted], notes)
        start = (len(frames) - span) // 2 if self.position == "middle" else 0
        return Selection(frames[start : start + span : stride], notes)

    def truth_positions(self, num_frames: int) -> Integers | None:
        """Return the positions of the scored frames in a truth; None where they are found by time.

        Args:
            num_frames: frames of the truth.
        """
        if self.rendered == "every-frame":
            return None
        stride = self._fitting_stride(num_frames, self.stride) if self.short_clip == "smaller-stride" else self.stride
        return np.arange(0, num_frames, stride)[: self.num_frames]

    def _fitting_stride(self, num_frames: int, stride: int) -> int:
        while stride > 1 and self.num_frames is not None and (self.num_frames - 1) * stride + 1 > num_frames:
            stride -= 1
        return stride

    def _at_rate(self, times_s: Floats64) -> tuple[Integers, tuple[str, ...]]:
        """Return the positions of the frames at the protocol's rate, and a remark if they were resampled."""
        everyone = np.arange(len(times_s))
        if self.fps is None or len(times_s) < 2:
            return everyone, ()
        rate = (len(times_s) - 1) / float(times_s[-1])
        if abs(rate / self.fps - 1) <= SAME_RATE:
            return everyone, ()
        if self.other_fps == "refuse":
            raise Refused("other_fps", f"{rate:.4g} frames per second, but the protocol {self.name} wants {self.fps:g}")
        at = np.arange(0, times_s[-1] + 1 / rate - SLACK_S, 1 / self.fps)
        frames = np.searchsorted(times_s, at + SLACK_S, side="right") - 1
        return frames, (f"the render was sampled at {self.fps:g} frames per second (its own: {rate:.4g})",)


_HUMANVID: dict[str, Any] = {
    "num_frames": 24,
    "stride": 3,
    "short_clip": "smaller-stride",
    "reference_index": 12,
    "height": 896,
    "width": 512,
    "render_filter": "pil-bilinear",
    "truth_filter": "pil-bilinear",
    "fit": "stretch",
    "ssim": ("zero-gauss11",),
    "lpips": ("vgg,0-1",),
    "fid": ("humanvid",),
    "fvd": ("humanvid-pair",),
}

PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        Protocol(name="all", description="all frames that both videos have"),
        Protocol(name="first-81", description="the first 81 frames", num_frames=81),
        Protocol(
            name="humanvid-24x3-mid",
            description="TikTok as HumanVid scores it: 24 frames, every third of the truth, the 13th is the reference; "
            "of a render that holds them and more, the middle 24",
            position="middle",
            rendered="scored-frames",
            **_HUMANVID,
        ),
        Protocol(
            name="humanvid-24x3-i2v",
            description="the frames of humanvid-24x3-mid for a model that renders every frame and begins with the "
            "reference image, which is not scored",
            score_first_frame=False,
            **(_HUMANVID | {"fvd": ()}),  # of 24 frames 23 are scored, and its FVD needs 24
        ),
        Protocol(
            name="vbench-i2v",
            description="VBench-I2V: all frames; subject and background consistency are weighted by frames",
            aggregation="frame",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return a built-in protocol, or read one's own from a json file.

    Raises:
        ValueError: there is neither; the message lists the names, or the fields that are wrong.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if not name.endswith(".json"):
        raise ValueError(f"{name!r} is not a protocol: choose {', '.join(PROTOCOLS)}, or pass a FILE.json")
    from ...datasets.storage import location

    try:
        return own_protocol(json.loads(location(name).read_text()))
    except (OSError, SteadyDancerError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not json: {error}") from error
    except ValidationError as error:
        places = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        wrong = "; ".join(": ".join(filter(None, place)) for place in places)
        raise ValueError(f"{name} is not a protocol: {wrong}") from error


def own_protocol(fields: Any) -> Protocol:
    """Build a protocol from its fields.

    Raises:
        ValueError: a field is wrong, or the rules differ from those of the built-in protocol with its name.
    """
    protocol = Protocol.model_validate(fields)
    built_in = PROTOCOLS.get(protocol.name)
    if built_in is not None and built_in != protocol:
        raise ValueError(f"{protocol.name} is the name of a built-in protocol with other rules: choose another name")
    return protocol


def recorded_protocol(record: Mapping[str, Any]) -> Protocol | None:
    """Return the protocol of a result; older results name a built-in one. None if the name is unknown."""
    stored = record.get("protocol")
    if stored is not None:
        return Protocol.model_validate({name: value for name, value in stored.items() if name != "digest"})
    return PROTOCOLS.get(str(record.get("config", {}).get("protocol")))


def protocol_differences(one: Protocol, other: Protocol) -> str:
    """List the fields in which two protocols differ, as lines of a message; empty if none."""
    return format_differences(one.model_dump(mode="json"), other.model_dump(mode="json"), most=20)
