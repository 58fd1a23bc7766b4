"""Estimate what the ablations cost, in CPU seconds of one core, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...pipelines.render.plan import evaluations_a_window
from ...pipelines.train.config import TrainConfig
from ..presets import Run
from .causes import CAUSES
from .packet import Packet
from .rows import ROWS, configure
from .world import World

# Measured on 30 November 2026 at 33 frames of 96², in the training of the shipped stages: the median seconds of a step
# (1.79, 3.51, 3.06) × two processes × their share of a core (0.84; 0.57 in stage 3) / 16 clips.
SECONDS_PER_SAMPLE = {1: 0.19, 2: 0.37, 3: 0.22}
"""CPU seconds of forward, backward and optimizer for a clip, by stage."""
# Estimates, from numbers of passes or from runs of other sizes.
NORMAL_DISTILLATION = 0.57  # of stage 2: one student pass and one of the teacher, in place of two and one
SECONDS_PER_ENCODED_POSE = 0.35  # a simulated pose of stage 3
SECONDS_PER_EVALUATION = 0.06  # of the network at inference, a third of a training step
SECONDS_PER_VIDEO = 1.2  # encoding, decoding, coding and measuring
SECONDS_PER_START = 20.0  # loading and evaluating before and after a stage
SECONDS_PER_CLIP = 1.4  # to draw, curate and cache
LIMIT_CPU_HOURS = 12.0


class Forecast(NamedTuple):
    """CPU seconds by part.

    Attributes:
        world: clips and pairs.
        packets: by packet.
    """

    world: float
    packets: dict[Packet, float]

    @property
    def cpu_hours(self) -> float:
        """All parts together."""
        return (self.world + sum(self.packets.values())) / 3600

    def left(self, out: Path) -> float:
        """Return the CPU seconds of the packets that are not finished in a run's folder."""
        return sum(seconds for packet, seconds in self.packets.items() if not packet.is_done(out))


def forecast(run: Run, packets: Iterable[Packet], world: World) -> Forecast:
    """Estimate the CPU seconds of the world and of each packet."""
    clips = world.num_sets * world.clips_per_set
    return Forecast(SECONDS_PER_CLIP * clips, {packet: _packet(run, packet, world) for packet in packets})


def _packet(run: Run, packet: Packet, world: World) -> float:
    row = ROWS[packet.row]
    configured = configure(run, row, packet.seed)
    training = 0.0 if row.stage is None else _training(configured.stage(row.stage))
    videos, evaluations = world.num_pairs * len(CAUSES), evaluations_a_window(configured.render)
    return training + videos * (SECONDS_PER_EVALUATION * evaluations + SECONDS_PER_VIDEO)


def _training(config: TrainConfig) -> float:
    samples = config.steps * config.global_batch_size
    seconds = SECONDS_PER_SAMPLE[config.stage] * samples
    if config.stage == 2 and config.distillation == "normal":
        seconds *= NORMAL_DISTILLATION
    if config.stage == 3 and config.pose_simulation_unit == "frame":
        seconds += SECONDS_PER_ENCODED_POSE * config.pose_simulation_probability * samples
    return seconds + SECONDS_PER_START
