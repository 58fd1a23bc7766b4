"""Sound that is read has the samples of its file at their times; what is written holds it beside the pictures."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from steadydancer.datasets.provenance import make_record, read_provenance, write_video
from steadydancer.datasets.video import VideoError, client, encode, frame_times_s, probe
from steadydancer.datasets.video.sound import Sound, change_speed, fit_to_duration, read_sound

TONE_HZ, CLICK_S = 440, 0.5
FRAMES = np.linspace(0, 250, 24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child does is done here: it starts in half a second."""
    monkeypatch.setenv("STEADYDANCER_DECODE", "in-process")
    monkeypatch.setattr(client, "_reader", None)


def tone(rate: int, channels: int, seconds: float = 1.0, begins_s: float = 0.0) -> np.ndarray:
    """int16 [n, channels]: silent until `begins_s`, then 440 Hz in the first channel and nearly nothing in others."""
    times = np.arange(round(rate * seconds)) / rate
    wave = np.where(times >= begins_s, np.sin(2 * np.pi * TONE_HZ * times) * 12000, 0)
    return np.stack([wave * (1 if k == 0 else 0.1) for k in range(channels)], axis=1).astype(np.int16)


def write_with_sound(
    path: Path, codec: str, layout: str, rate: int, sound: np.ndarray, *, sound_from_s: float = 0, video_from: int = 0
) -> None:
    """A second of video at 24 a second with this sound in any codec; either may begin later."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=24)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout=layout)
        for k, pixels in enumerate(FRAMES):
            picture = av.VideoFrame.from_ndarray(pixels)
            picture.pts, picture.time_base = k + video_from, Fraction(1, 24)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.reshape(1, -1)), format="s16", layout=layout)
        whole.rate, whole.time_base, whole.pts = rate, Fraction(1, rate), 0
        resampler, queue = av.AudioResampler(audio.format, audio.layout, rate), av.AudioFifo()
        for piece in (whole, None):
            for frame in resampler.resample(piece):
                queue.write(frame)
        while frame := queue.read(audio.codec_context.frame_size or 1024) or queue.read(0, partial=True):
            frame.pts += round(sound_from_s * rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def pitch_hz(sound: Sound) -> float:
    wave = sound.samples[:, 0] * np.hanning(len(sound.samples))
    return float(np.abs(np.fft.rfft(wave)).argmax() * 48000 / len(wave))


def begins_s(sound: Sound) -> float:
    return float(np.flatnonzero(np.abs(sound.samples[:, 0].astype(int)) > 3000)[0] / 48000)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate", "channels"),
    [
        ("a.mp4", "aac", "stereo", 44100, 2), ("b.mov", "pcm_s16le", "mono", 22050, 1),
        ("c.mkv", "libopus", "stereo", 48000, 2), ("d.mkv", "ac3", "5.1", 48000, 2),
        ("e.mp4", "libmp3lame", "mono", 32000, 1), ("f.mkv", "flac", "stereo", 96000, 2),
    ],
)  # fmt: skip
def test_every_codec_layout_and_rate_is_read_at_its_times(
    name: str, codec: str, layout: str, rate: int, channels: int, tmp_path: Path
) -> None:
    wave = tone(rate, len(av.AudioLayout(layout).channels), begins_s=CLICK_S)
    write_with_sound(tmp_path / name, codec, layout, rate, wave)
    sound = read_sound(tmp_path / name, 0.75)
    assert sound is not None and sound.samples.shape == (36000, channels)
    assert begins_s(sound) == pytest.approx(CLICK_S, abs=0.03)  # a coder's smear
    last = Sound(sound.samples[-9600:])
    assert pitch_hz(last) == pytest.approx(TONE_HZ, abs=5)
    peaks = np.abs(last.samples.astype(int)).max(axis=0)
    assert (4000 if layout == "5.1" else 10000) < peaks[0] < 14000  # six channels share two
    if channels == 2 and layout != "5.1":
        assert 600 < peaks[1] < 2500  # left stays left


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_time_zero_is_the_first_frame(suffix: str, tmp_path: Path) -> None:
    wave = tone(48000, 1, begins_s=CLICK_S)
    for name, later in (("sound", {"sound_from_s": 0.25}), ("video", {"video_from": 6})):
        path = tmp_path / f"{name}{suffix}"
        write_with_sound(path, "aac", "mono", 48000, wave, **later)
        sound = read_sound(path, 1.0)
        assert sound is not None
        offset = 0.25 if name == "sound" else -0.25
        assert begins_s(sound) == pytest.approx(CLICK_S + offset, abs=0.03), (name, frame_times_s(path)[:3])
        assert len(sound.samples) == 48000  # silent where there is none


def test_no_sound_and_sound_that_cannot_be_decoded(tmp_path: Path) -> None:
    encode(FRAMES, tmp_path / "silent.mp4", 24)
    assert read_sound(tmp_path / "silent.mp4", 1.0) is None
    write_with_sound(tmp_path / "zeros.mp4", "aac", "mono", 48000, np.zeros((48000, 1), np.int16))
    assert read_sound(tmp_path / "zeros.mp4", 1.0) is None
    write_with_sound(tmp_path / "late.mkv", "aac", "mono", 48000, tone(48000, 1), sound_from_s=0.9)
    assert read_sound(tmp_path / "late.mkv", 0.8) is None
    with pytest.raises(VideoError, match="unreadable"):
        read_sound(tmp_path / "gone.mp4", 1.0)
    write_with_sound(tmp_path / "good.mkv", "flac", "mono", 48000, tone(48000, 1))
    data = (tmp_path / "good.mkv").read_bytes()
    broken = bytearray(data)
    with av.open(str(tmp_path / "good.mkv")) as container:
        for packet in container.demux(container.streams.audio[0]):
            if packet.size:
                at = data.find(bytes(packet))
                broken[at : at + packet.size] = b"\x55" * packet.size
    (tmp_path / "broken.mkv").write_bytes(broken)
    with pytest.raises(VideoError, match="unreadable: the sound cannot be decoded"):
        read_sound(tmp_path / "broken.mkv", 1.0)


def test_a_damaged_packet_is_silent_and_what_is_beside_it_is_heard(tmp_path: Path) -> None:
    write_with_sound(tmp_path / "good.mkv", "flac", "mono", 48000, tone(48000, 1))
    data = (tmp_path / "good.mkv").read_bytes()
    broken = bytearray(data)
    with av.open(str(tmp_path / "good.mkv")) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]
    middle = packets[len(packets) // 2]
    broken[data.find(middle) : data.find(middle) + len(middle)] = b"\x55" * len(middle)
    (tmp_path / "broken.mkv").write_bytes(broken)
    whole, heard = (read_sound(tmp_path / name, 1.0) for name in ("good.mkv", "broken.mkv"))
    assert whole is not None and heard is not None
    differs = np.flatnonzero((whole.samples != heard.samples).any(axis=1))
    assert 20000 < differs.min() < differs.max() < 30000
    assert not heard.samples[differs].any()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("speed", [0.3, 0.5, 24 / 16, 1.875, 5.0])
def test_another_speed_keeps_the_pitch(speed: float, channels: int) -> None:
    sound = Sound(tone(48000, channels, seconds=2.0))
    changed = change_speed(sound, speed)
    assert len(changed.samples) / 48000 == pytest.approx(2 / speed, abs=0.05 / min(speed, 1))
    assert changed.samples.dtype == np.int16 and changed.samples.shape[1] == channels
    assert pitch_hz(changed) == pytest.approx(TONE_HZ, abs=3)


def test_a_speed_that_nobody_hears_changes_no_sample() -> None:
    sound = Sound(tone(48000, 2, seconds=5.0))
    assert change_speed(sound, 30 / 29.97) is sound and change_speed(sound, 1.0) is sound
    assert change_speed(sound, 1.01) is not sound


def test_cut_to_a_span_it_is_that_long() -> None:
    sound = Sound(np.arange(1, 9, dtype=np.int16).reshape(4, 2))
    assert fit_to_duration(sound, 2 / 48000).samples.tolist() == [[1, 2], [3, 4]]
    assert fit_to_duration(sound, 5 / 48000).samples.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [0, 0]]


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_holds_pictures_record_and_sound_and_is_the_same_again(channels: int, tmp_path: Path) -> None:
    sound = Sound(tone(48000, channels, begins_s=CLICK_S))
    record = make_record(model={"transformer": "0" * 64}, inputs={}, settings={"x": "é"}, seed=1)
    silent = write_video(FRAMES, tmp_path / "silent.mp4", record, 24)
    for name in ("a.mp4", "b.mp4"):
        written = write_video(iter([FRAMES[:7], FRAMES[7:]]), tmp_path / name, record, 24, sound)
        assert written["video"] | {"sha256": ""} == silent["video"] | {"sha256": ""}
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_provenance(tmp_path / "a.mp4") == record
    info = probe(tmp_path / "a.mp4")
    assert (info.num_frames, info.fps, info.duration_s) == (24, 24.0, 1.0)
    again = read_sound(tmp_path / "a.mp4", 1.0)
    assert again is not None and again.samples.shape == (48000, channels)
    assert begins_s(again) == pytest.approx(CLICK_S, abs=0.01)
    assert pitch_hz(Sound(again.samples[24000:])) == pytest.approx(TONE_HZ, abs=3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) == pytest.approx(
            1, abs=0.05
        )
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert not container.streams.audio
        for one, other in zip(pictures, container.decode(video=0), strict=True):
            np.testing.assert_array_equal(one, other.to_ndarray(format="rgb24"))


def test_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    """Who gives `encode` or `render_to` the whole sound of a driving video gets that of the rendered span."""
    tone = np.rint(9000 * np.sin(np.arange(48_000) / 20)).astype(np.int16)[:, None]
    pictures = np.zeros((8, 32, 32, 3), np.uint8)
    encode(pictures, tmp_path / "long.mp4", fps=16, sound=Sound(tone))
    encode(pictures, tmp_path / "cut.mp4", fps=16, sound=Sound(tone[:24_000]))
    assert (tmp_path / "long.mp4").read_bytes() == (tmp_path / "cut.mp4").read_bytes()
    with av.open(str(tmp_path / "long.mp4")) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(0.5, abs=0.03)


def test_the_decoding_process_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long: Callable[[], Sound | None] = lambda: read_sound(tmp_path / "long.mkv", 9.0)  # noqa: E731
    write_with_sound(tmp_path / "long.mkv", "pcm_s16le", "stereo", 48000, tone(48000, 2, seconds=8.0))
    here = long()
    monkeypatch.delenv("STEADYDANCER_DECODE")
    there = long()
    assert here is not None and there is not None
    np.testing.assert_array_equal(here.samples, there.samples)
    np.testing.assert_array_equal(here.samples, fit_to_duration(Sound(tone(48000, 2, seconds=8.0)), 9.0).samples)
