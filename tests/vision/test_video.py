"""Video files as they are: containers, rates, clocks, damage, and what is no video at all."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage
from edge_runtime.serving.messages import VideoSampling
from edge_runtime.vision import video
from edge_runtime.vision.image import ImageLimits
from edge_runtime.vision.video import read_video, sample_clip
from tests.vision.clips import HEIGHT, WIDTH, mp4_box, numbered, numbers_of, write_clip, write_gif
from tests.vision.test_sampling import QWEN3

TWELVE = [0, 5, 11, 16, 21, 27, 32, 38, 43, 48, 54, 59]
"""The frames of six seconds at ten frames/s."""
CONTAINERS = [
    ("mp4", "mp4v"),
    ("mov", "mp4v"),
    ("avi", "MJPG"),
    ("mkv", "MJPG"),
    ("webm", "VP80"),
    ("ts", "mpg2"),  # frames in another order than they are shown
    ("flv", "FLV1"),
    ("wmv", "WMV2"),
]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_a_steady_clip_of_any_container(tmp_path: Path, suffix: str, codec: str) -> None:
    part = read_video(write_clip(tmp_path / f"v.{suffix}", codec=codec), QWEN3, QWEN3)
    assert numbers_of(part) == TWELVE
    assert part.timestamps_s == tuple(index / 10 for index in TWELVE)
    assert {np.asarray(frame).shape for frame in part.frames} == {(HEIGHT, WIDTH, 3)}


def test_frames_of_a_variable_rate_have_the_times_at_which_they_are_shown(tmp_path: Path) -> None:
    durations = [50] * 20 + [500] * 10
    shown = np.cumsum([0, *durations]) / 1000
    part = read_video(write_gif(tmp_path / "v.gif", durations), QWEN3, QWEN3)
    numbers = numbers_of(part)
    assert numbers[0] == 0
    assert numbers[-1] == 29
    assert part.timestamps_s == pytest.approx([shown[number] for number in numbers])
    assert np.diff(part.timestamps_s).max() <= 1.0


def test_a_sample_table_of_two_rates(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "v.mp4", codec="mp4v").read_bytes()
    way = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    start, end = mp4_box(data, *way)
    count, delta = struct.unpack(">II", data[start + 16 : start + 24])
    assert (struct.unpack(">I", data[start + 12 : start + 16])[0], count) == (1, 60)
    table = struct.pack(">I4sIIIIII", 32, b"stts", 0, 2, 40, delta // 4, 20, 5 * delta // 2)
    grown = bytearray(data[:start] + table + data[end:])
    for depth in range(1, len(way)):
        at, until = mp4_box(data, *way[:depth])
        struct.pack_into(">I", grown, at, until - at + len(table) - (end - start))
    (tmp_path / "v.mp4").write_bytes(grown)
    shown = [number / 40 if number < 40 else 1 + (number - 40) / 4 for number in range(60)]
    part = read_video(tmp_path / "v.mp4", QWEN3, QWEN3)
    numbers = numbers_of(part)
    assert len(numbers) == 11
    assert part.timestamps_s == pytest.approx([shown[number] for number in numbers], abs=1e-3)
    assert np.diff(part.timestamps_s).max() <= 0.75


def test_a_clip_held_upright_is_upright(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "v.mp4", codec="mp4v").read_bytes())
    at, _ = mp4_box(data, b"moov", b"trak", b"tkhd")
    struct.pack_into(">9i", data, at + 48, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(data)
    clip = sample_clip(tmp_path / "v.mp4", QWEN3, QWEN3)
    assert clip.source_size == clip.size == (WIDTH, HEIGHT)


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    data = bytearray(write_gif(tmp_path / "v.gif", [500] * 4).read_bytes())
    data[12] = 113  # (113 + 15) / 64: twice as wide as high
    (tmp_path / "v.gif").write_bytes(data)
    clip = sample_clip(tmp_path / "v.gif", QWEN3, QWEN3)
    assert clip.source_size == clip.size == (HEIGHT, 2 * WIDTH)
    assert numbers_of(clip.part) == [0, 1, 2, 3]


def test_an_edit_list_cuts_the_beginning_off(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "v.mp4", codec="mp4v").read_bytes())
    movie = struct.unpack(">I", data[(at := mp4_box(data, b"moov", b"mvhd")[0]) + 20 : at + 24])[0]
    media = struct.unpack(">I", data[(at := mp4_box(data, b"moov", b"trak", b"mdia", b"mdhd")[0]) + 20 : at + 24])[0]
    at, _ = mp4_box(data, b"moov", b"trak", b"edts", b"elst")
    struct.pack_into(">Ii", data, at + 16, 3 * movie, media)  # three seconds, from the first second on
    (tmp_path / "v.mp4").write_bytes(data)
    part = read_video(tmp_path / "v.mp4", QWEN3, QWEN3)
    numbers = numbers_of(part)
    assert numbers[0] == 10
    assert numbers[-1] in (39, 40)
    assert part.timestamps_s == pytest.approx([(number - 10) / 10 for number in numbers], abs=0.01)


def test_recordings_joined_together_go_on(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.ts", codec="mpg2")
    path.write_bytes(2 * path.read_bytes())
    part = read_video(path, QWEN3, QWEN3)
    assert len(part.frames) == 24
    assert list(part.timestamps_s) == sorted(part.timestamps_s)
    assert part.timestamps_s[-1] == pytest.approx(11.9, abs=0.2)
    numbers = numbers_of(part)
    assert numbers[-1] == 59
    assert [later for earlier, later in itertools.pairwise(numbers) if later < earlier] == [2]


@pytest.mark.parametrize(("suffix", "codec"), [pair for pair in CONTAINERS if pair[0] not in ("mp4", "mov")])
def test_a_clip_cut_short_is_used_up_to_there(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_clip(tmp_path / f"v.{suffix}", codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    part = read_video(path, QWEN3, QWEN3)
    numbers = numbers_of(part)
    assert numbers == sorted(numbers)
    assert 25 <= numbers[-1] < 59
    assert part.timestamps_s == pytest.approx([number / 10 for number in numbers], abs=0.11)  # the last may be damaged


def test_a_damaged_end_is_left_out_and_told(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "v.mp4", codec="mp4v").read_bytes())
    start, end = mp4_box(data, b"mdat")
    data[end - (end - start) // 3 : end] = bytes((end - start) // 3)
    (tmp_path / "v.mp4").write_bytes(data)
    clip = sample_clip(tmp_path / "v.mp4", QWEN3, QWEN3)
    numbers = numbers_of(clip.part)
    assert numbers == sorted(numbers)
    assert 25 <= numbers[-1] < 55
    assert clip.lost_s == pytest.approx(5.9 - clip.part.timestamps_s[-1], abs=0.25)
    assert len(numbers) == pytest.approx(2 * clip.part.timestamps_s[-1], abs=1.5)  # the rate of the rest is kept


@pytest.mark.parametrize("number_of_frames", [1, 2, 3])
def test_very_short_clips(tmp_path: Path, number_of_frames: int) -> None:
    part = read_video(write_clip(tmp_path / "v.avi", number_of_frames), QWEN3, QWEN3)
    assert numbers_of(part) == ([0, 0] if number_of_frames == 1 else list(range(number_of_frames)))


def test_a_back_end_without_packets_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "v.mkv")
    expected = read_video(path, QWEN3, QWEN3)
    monkeypatch.setattr(video, "_packet_times", video._frame_times)
    part = read_video(path, QWEN3, QWEN3)
    assert (numbers_of(part), part.timestamps_s) == (TWELVE, expected.timestamps_s)


def test_a_long_clip_is_one_pass_of_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "v.avi")
    monkeypatch.setattr(video, "_frame_times", None)  # would decode it once more, and is for files that need it
    assert numbers_of(read_video(path, QWEN3, QWEN3)) == TWELVE


def test_too_many_or_too_large_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "v.avi")
    with pytest.raises(BadImage, match="192x96"):
        read_video(path, QWEN3, QWEN3, ImageLimits(max_source_pixels=WIDTH * HEIGHT - 1))
    monkeypatch.setattr(video, "MAX_FRAMES", 59)
    with pytest.raises(BadImage, match="more than 59 frames"):
        read_video(path, QWEN3, QWEN3)


def hls(folder: Path) -> Path:
    write_clip(folder / "secret.ts", codec="mpg2")
    (folder / "v.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n")
    return folder / "v.m3u8"


def concat(folder: Path) -> Path:
    write_clip(folder / "secret.avi")
    (folder / "v.mp4").write_text(f"ffconcat version 1.0\nfile '{folder / 'secret.avi'}'\n")
    return folder / "v.mp4"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "v.mp4")
    return folder / "v.mp4"


def image(folder: Path) -> Path:
    Image.fromarray(numbered(1)).save(folder / "v.png")
    return folder / "v.png"


def no_index(folder: Path) -> Path:
    data = write_clip(folder / "v.mp4", codec="mp4v").read_bytes()
    (folder / "v.mp4").write_bytes(data[: len(data) // 2])
    return folder / "v.mp4"


def not_utf8(folder: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.avi"))
    return write_clip(folder / "v.avi").replace(path)


def empty(folder: Path) -> Path:
    (folder / "v.mp4").touch()
    return folder / "v.mp4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "not a file"),
        (lambda folder: folder / "missing.mp4", "not there"),
        (lambda folder: folder / ("x" * 300), "cannot read"),
        (lambda _: Path("http://127.0.0.1:9/v.mp4"), "not there"),
        (lambda _: Path("zero\0byte"), "zero"),
        (hls, "playlists are not followed"),
        (concat, "playlists are not followed"),
        (fifo, "not a file"),
        (image, "is an image"),
        (no_index, "not a video that OpenCV can open"),
        (not_utf8, "not UTF-8"),
        (empty, "no bytes"),
    ],
)
def test_what_is_no_video_is_refused_at_once(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        read_video(make(tmp_path), QWEN3, QWEN3)


def test_names_that_a_decoder_would_take_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_clip(tmp_path / "v.avi").read_bytes()
    Path("http:").mkdir()
    for name in ("http:/v.avi", "concat:v.avi", "v%03d.avi", "-i.avi"):
        Path(name).write_bytes(data)
        assert numbers_of(read_video(Path(name), QWEN3, QWEN3)) == TWELVE


def test_a_sampling_without_the_newer_fields_will_do(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.avi")
    fields = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels")
    old = type("Old", (), {name: getattr(QWEN3, name) for name in fields})()
    assert numbers_of(read_video(path, QWEN3, old)) == TWELVE


def test_a_clip_that_does_not_fit_is_thinned_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.avi")
    tight = VideoSampling(**{name: getattr(QWEN3, name) for name in QWEN3.__struct_fields__} | {"max_tokens": 110})
    clip = sample_clip(path, QWEN3, tight)
    assert (clip.num_wanted, clip.num_fitting) == (12, 6)
    assert clip.size == clip.source_size == (HEIGHT, WIDTH)  # 18 tokens a pair: smaller would not help
    assert clip.part.timestamps_s == (0.0, 1.2, 2.4, 3.5, 4.7, 5.9)


def test_opencv_reports_the_time_of_the_frame_just_grabbed(tmp_path: Path) -> None:
    """What all of this stands on, of whatever OpenCV is installed."""
    capture = cv2.VideoCapture(str(write_clip(tmp_path / "v.avi")))
    for number in range(3):
        assert capture.grab()
        assert capture.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(100 * number)
    capture.release()
