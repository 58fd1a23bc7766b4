"""Curate a folder of videos with NeMo Curator 1.4.0 on CPUs; `curation.py` starts this file in Curator's environment.

Stages: read, clips of 5 s, encode, motion vectors, motion filter, write. Favours: the clips are copied (`-c:v copy`),
which Curator does not allow and a subclass does here; the filter looks at 10 frames at once instead of 256; one CPU
a worker instead of six, as otherwise nothing is scheduled on a small machine. `--in-process`, which Curator does not
have, calls its stages in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.video.clipping.clip_extraction_stages import ClipTranscodingStage, FixedStrideExtractorStage
from nemo_curator.stages.video.filtering.motion_filter import MotionFilterStage, MotionVectorDecodeStage
from nemo_curator.stages.video.io.clip_writer import ClipWriterStage
from nemo_curator.stages.video.io.video_reader import VideoReader
from nemo_curator.tasks import EmptyTask


class CopyStage(ClipTranscodingStage):  # type: ignore[misc]
    """Cut clips out of the stream without encoding them."""

    def setup(self, worker_metadata: Any = None) -> None:
        """Skip the check of the encoder's name."""

    def _add_video_encoding_options(self, command: list[str], *_: Any) -> None:
        command[command.index(self.encoder, -2)] = "copy"


def stages(clips: Path, out: Path, encoder: str, shortest_s: float) -> list[Any]:
    """Return Curator's stages."""
    encode = CopyStage if encoder == "copy" else ClipTranscodingStage
    return [
        VideoReader(input_video_path=str(clips)),
        FixedStrideExtractorStage(clip_len_s=5, clip_stride_s=5, min_clip_length_s=shortest_s, limit_clips=0),
        encode(num_cpus_per_worker=1, encoder="libvpx-vp9"),
        MotionVectorDecodeStage(num_cpus_per_worker=1),
        MotionFilterStage(motion_filter_batch_size=10),
        ClipWriterStage(
            output_path=str(out), input_path=str(clips), upload_clips=True, dry_run=False, generate_embeddings=False,
            generate_previews=False, generate_captions=False, caption_models=[], enhanced_caption_models=[],
        ),
    ]  # fmt: skip


def in_turn(given: list[Any], catches: bool) -> None:
    """Call the stages one after another for each file; `catches`: go on with the next file after an exception."""
    flat = [inner for stage in given for inner in (stage.decompose() if hasattr(stage, "decompose") else [stage])]
    for stage in flat:
        stage.setup()
    for file in _listed(flat[0].process(EmptyTask())):
        tasks = [file]
        try:
            for stage in flat[1:]:
                tasks = [made for task in tasks for made in _listed(stage.process(task))]
        except Exception as error:
            if not catches:
                raise
            print(f"RAISED\t{file.data[0]}\t{type(error).__name__}: {error}", flush=True)


def _listed(made: Any) -> Iterable[Any]:
    return made if isinstance(made, list) else [made]


def main() -> None:
    """Curate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", choices=("copy", "libvpx-vp9"), default="copy")
    parser.add_argument("--shortest-s", type=float, default=5.0, help="shorter clips are left out")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--catch", action="store_true", help="in process: go on after an exception")
    arguments = parser.parse_args()
    given = stages(arguments.clips.absolute(), arguments.out.absolute(), arguments.encoder, arguments.shortest_s)
    if arguments.in_process:
        in_turn(given, arguments.catch)
        return
    import ray
    from nemo_curator.backends.ray_data import RayDataExecutor

    ray.init(num_cpus=4)  # with the two CPUs of the machine its actors wait for each other forever
    pipeline = Pipeline(name="clips")
    for stage in given:
        pipeline.add_stage(stage)
    pipeline.run(RayDataExecutor())


if __name__ == "__main__":
    main()
