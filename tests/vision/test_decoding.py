"""The decoding process: the same pixels as without it, bounded, ended at will, and never a burden to the next one."""

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage, Cancelled, EdgeError, Overloaded
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.vision import decode_lane, decode_process
from edge_runtime.vision.decoding import BadFrame, PendingPixels, PictureDecoder
from edge_runtime.vision.image import ImageLimits, decode_image
from edge_runtime.vision.resize import resize_image

LIMITS = ImageLimits()
WAIT_S = 60.0
SCENE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, file_format, **options)
    return stream.getvalue()


def slow_png() -> bytes:
    """Much work from few bytes: interlaced rows of nothing, 4096 x 4096."""
    side = 4096
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64 + 2)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 1)), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.fixture(scope="module")
def slow() -> bytes:
    return slow_png()


@pytest.fixture
def decoder() -> Iterator[PictureDecoder]:
    made = PictureDecoder(LIMITS)
    yield made
    made.close()


def process_id(decoder: PictureDecoder) -> int:
    process = decoder._files._process
    assert process is not None
    return process.pid


def process_at_work(decoder: PictureDecoder, job: PendingPixels) -> int:
    """The id of the process once it has `job`."""
    lane = decoder._files
    while not job.done():
        with lane._changed:
            if lane._current is job and lane._process is not None and not lane._is_killed:
                return lane._process.pid
        threading.Event().wait(0.001)
    raise AssertionError("the job ended before it could be disturbed")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_pixels_are_those_of_this_process(decoder: PictureDecoder, file_format: str) -> None:
    data = encoded(SCENE, file_format)
    assert decoder.sizes([data]) == [(60, 90)]
    for size in ((60, 90), (64, 96), (32, 32)):
        done = decoder.start([data], *size).result(WAIT_S)
        np.testing.assert_array_equal(done.frames[0], resize_image(decode_image(data, LIMITS), *size))
        assert done.decode_ms > 0


def test_arrays_are_resized_and_equal_ones_are_not_copied(decoder: PictureDecoder) -> None:
    np.testing.assert_array_equal(decoder.start([SCENE], 32, 64).result(WAIT_S).frames[0], resize_image(SCENE, 32, 64))
    assert decoder.start([SCENE], 60, 90).result(WAIT_S).frames[0] is SCENE


def test_large_arrays_are_resized_by_the_process(decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_lane, "MAX_PIXELS_HERE", 100)
    turned = SCENE.transpose(1, 0, 2)
    done = decoder.start([turned], 32, 64).result(WAIT_S)
    np.testing.assert_array_equal(done.frames[0], resize_image(np.ascontiguousarray(turned), 32, 64))
    assert process_id(decoder)


def test_a_frame_that_comes_twice_is_decoded_once(decoder: PictureDecoder) -> None:
    data = encoded(SCENE)
    first, second = decoder.start([data, data], 32, 32).result(WAIT_S).frames
    assert first is second


def test_cancels_and_crashes_leave_nothing_behind(decoder: PictureDecoder, slow: bytes) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0

    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    before = descriptors(), threading.active_count()
    for _ in range(5):
        decoder.start([slow], 32, 32).cancel()
        job = decoder.start([slow], 32, 32)
        os.kill(process_at_work(decoder, job), signal.SIGSEGV)
        with pytest.raises(EdgeError):
            job.result(WAIT_S)
        decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    assert (descriptors(), threading.active_count()) == before


def test_jobs_end_in_their_order(decoder: PictureDecoder) -> None:
    ended: list[int] = []
    jobs = [decoder.start([encoded(SCENE), encoded(SCENE, "JPEG")], 32, 32) for _ in range(5)]
    for number, job in enumerate(jobs):
        job.on_done(lambda number=number: ended.append(number))
    jobs[-1].result(WAIT_S)
    assert ended == [0, 1, 2, 3, 4]


def test_the_failing_frame_is_named_and_the_next_job_is_none_the_worse(decoder: PictureDecoder) -> None:
    good = encoded(SCENE)
    with pytest.raises(BadFrame, match="cut short") as caught:
        decoder.start([good, good[: len(good) // 2]], 32, 32).result(WAIT_S)
    assert caught.value.index == 1
    with pytest.raises(BadFrame) as caught:
        decoder.sizes([SCENE, good, b"no picture"])
    assert caught.value.index == 2
    with pytest.raises(BadFrame) as caught:
        decoder.start([good, "a path"], 32, 32)  # type: ignore[list-item]
    assert caught.value.index == 1
    assert decoder.start([good], 32, 32).result(WAIT_S).frames[0].shape == (32, 32, 3)


def test_cancel_ends_a_decode_in_progress_and_only_that(decoder: PictureDecoder, slow: bytes) -> None:
    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    before = process_id(decoder)
    job, behind = decoder.start([slow], 32, 32), decoder.start([encoded(SCENE)], 32, 32)
    process_at_work(decoder, job)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(0)
    assert behind.result(WAIT_S).frames[0].shape == (32, 32, 3)
    assert process_id(decoder) != before


def test_cancel_of_a_waiting_job_leaves_the_process_alone(decoder: PictureDecoder) -> None:
    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    before = process_id(decoder)
    jobs = [decoder.start([encoded(SCENE)], 32, 32) for _ in range(3)]
    jobs[2].cancel()
    jobs[1].result(WAIT_S)
    with pytest.raises(Cancelled):
        jobs[2].result(0)
    assert process_id(decoder) == before


def test_sizes_do_not_wait_for_a_decode_and_can_be_cancelled(decoder: PictureDecoder, slow: bytes) -> None:
    job = decoder.start([slow], 32, 32)
    assert decoder.sizes([slow, encoded(SCENE)]) == [(4096, 4096), (60, 90)]
    job.cancel()
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        decoder.sizes([encoded(SCENE)], token)


def test_a_process_killed_by_the_system_is_our_shortage(decoder: PictureDecoder, slow: bytes) -> None:
    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    job = decoder.start([slow], 32, 32)
    os.kill(process_at_work(decoder, job), signal.SIGKILL)
    with pytest.raises(Overloaded):
        job.result(WAIT_S)
    assert decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S).frames[0].shape == (32, 32, 3)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGXCPU, BadImage), (signal.SIGSEGV, BadImage)])
def test_a_picture_that_ends_the_process_is_to_blame(
    decoder: PictureDecoder, slow: bytes, number: int, kind: type[EdgeError]
) -> None:
    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    job = decoder.start([slow], 32, 32)
    os.kill(process_at_work(decoder, job), number)
    with pytest.raises(kind):
        job.result(WAIT_S)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
def test_no_room_for_a_process_is_our_shortage(
    decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(decode_process.subprocess, "Popen", refuse)
    with pytest.raises(Overloaded):
        decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    monkeypatch.undo()
    assert decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S).frames[0].shape == (32, 32, 3)


def test_a_machine_without_time_is_our_shortage(
    decoder: PictureDecoder, slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_process, "WALL_SECONDS", 0.0)
    with pytest.raises(Overloaded):
        decoder.start([slow], 32, 32).result(WAIT_S)


def test_memory_of_the_process_is_limited(slow: bytes) -> None:
    """The estimate before is set aside here: the limit of the process itself holds."""
    script = (
        "import sys\n"
        "from edge_runtime.vision import decode_worker as worker, pictures\n"
        "pictures._check_memory = lambda *_: None\n"
        "from edge_runtime.vision.headers import ImageLimits\n"
        "from dataclasses import asdict\n"
        "limits = asdict(ImageLimits(max_decode_bytes=80 << 20))\n"
        "request = {'limits': limits, 'size': [32, 32]}\n"
        "reply, _ = worker._answer(sys.stdin.buffer.read(), request, worker._address_space())\n"
        "print(reply['error'], open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=slow, capture_output=True, check=True, timeout=WAIT_S)
    words = done.stdout.decode().split()
    assert "memory" in words
    assert int(words[-1]) < 160 * 1024  # KiB


def test_close_cancels_what_waits_and_ends_the_process(slow: bytes) -> None:
    decoder = PictureDecoder(LIMITS)
    jobs = [decoder.start([slow], 32, 32), decoder.start([slow], 32, 32), decoder.start([SCENE], 64, 64)]
    thread = decoder._files._thread
    decoder.close()
    for job in jobs[:2]:
        with pytest.raises(Cancelled):
            job.result(WAIT_S)
    assert thread is not None
    thread.join(WAIT_S)
    assert decoder._files._process is None
    with pytest.raises(Cancelled):
        decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)


def test_the_process_inherits_nothing_and_imports_little(decoder: PictureDecoder) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
        folder = Path("/proc", str(process_id(decoder)))
        targets = {path.readlink() for path in (folder / "fd").iterdir()}
        assert Path(f"/proc/self/fd/{reader}").readlink() not in targets
    finally:
        os.close(reader)
        os.close(writer)
    maps = (folder / "maps").read_text()
    assert not any(name in maps for name in ("onnxruntime", "numpy", "cv2", "zmq"))


def test_a_decoder_that_is_forgotten_takes_its_process_along() -> None:
    decoder = PictureDecoder(LIMITS)
    decoder.start([encoded(SCENE)], 32, 32).result(WAIT_S)
    thread = decoder._files._thread
    del decoder
    assert thread is not None
    thread.join(WAIT_S)
    assert not thread.is_alive()
