"""What `ask` makes of images and clips that are larger or longer than the model can take, and what it says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from edge_runtime.cli.main import app
from edge_runtime.cli.question import Question
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.model.conversation import VideoPart
from edge_runtime.serving.model_info import model_info
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings
from edge_runtime.vision.image import ImageLimits
from edge_runtime.vision.plan import MediaPlanner
from edge_runtime.vision.sampling import PAIR_TEXT_TOKENS
from tests.vision.clips import write_clip

SMALL = MemoryRequest(context_tokens=1024, max_pixels=65_536, max_chats=1)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def address(tiny_bundle: Path) -> Iterator[str]:
    """A server with a short context that takes small images."""
    planned = PlannedBundle.open(tiny_bundle, "cpu-generic", SMALL)
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*", shutdown_grace_s=0.5))
    thread = Thread(target=server.run, args=(planned.load(), model_info(planned)))
    thread.start()
    yield server.address
    server.stop()
    thread.join(60)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames at the model's two a second, 192x96."""
    return write_clip(tmp_path_factory.mktemp("clips") / "minute.avi", num_frames=300, fps=5.0)


def question(**fields: object) -> Question:
    empty = dict.fromkeys(("video", "system"))
    options = GenerationOptions(max_tokens=fields.pop("max_tokens", None))
    return Question(**{"prompt": "hi", "images": (), "options": options, **empty, **fields})


def test_a_clip_too_long_for_the_context_is_thinned_out_and_told(
    run: Callable[..., Result], address: str, minute: Path
) -> None:
    result = run("ask", address, "hello", "--video", minute, "--max-tokens", 4)
    assert result.exit_code == 0, result.stderr
    remark = result.stderr.splitlines()[0]
    assert remark.startswith("minute.avi: the model would take 120 frames; ")
    assert "of 192x96 fit a context of 1,024: sampled every" in remark
    quiet = run("ask", address, "hello", "--video", minute, "--max-tokens", 4, "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")


def test_a_clip_that_fits_is_not_talked_of(run: Callable[..., Result], address: str, tmp_path: Path) -> None:
    result = run("ask", address, "hello", "--video", write_clip(tmp_path / "short.avi", 10), "--max-tokens", 4)
    assert result.exit_code == 0, result.stderr
    assert "short.avi" not in result.stderr


def test_frames_are_resized_once(tiny_bundle: Path, minute: Path, tmp_path: Path) -> None:
    planned = PlannedBundle.open(tiny_bundle, "cpu-generic", SMALL)
    planner = MediaPlanner(planned.bundle.manifest, ImageLimits(), planned.plan.max_pixels)
    remarks: list[str] = []
    for path, frames in ((minute, None), (write_clip(tmp_path / "odd.avi", 35, 10.0), 7)):
        (message,) = question(video=path).messages(model_info(planned), remarks.append)
        (part, _) = message.content
        assert isinstance(part, VideoPart)
        assert frames in (None, len(part.frames))
        run = planner.plan(part).runs[0]
        assert np.asarray(part.frames[0]).shape == (run.height, run.width, 3)
        assert math.prod((run.height, run.width)) <= planned.plan.max_pixels


def test_the_clip_leaves_room_for_words_images_and_the_answer_asked_for(
    tiny_bundle: Path, minute: Path, picture: Path
) -> None:
    info = model_info(PlannedBundle.open(tiny_bundle, "cpu-generic", SMALL))

    def tokens_of(**fields: object) -> int:
        message = question(video=minute, **fields).messages(info, None)[-1]
        (part,) = (part for part in message.content if isinstance(part, VideoPart))
        height, width = np.asarray(part.frames[0]).shape[:2]
        return math.ceil(len(part.frames) / 2) * (height * width // 1024 + PAIR_TEXT_TOKENS)

    alone = tokens_of(max_tokens=16)
    assert info.max_context // 3 < alone <= info.max_context // 2  # the other half is for words and an answer
    assert tokens_of(max_tokens=16, prompt="x" * 600) < alone
    assert tokens_of(max_tokens=16, images=(picture,) * 10) < alone
    assert tokens_of(max_tokens=600) < alone
    assert tokens_of(max_tokens=10**9) >= info.max_context // 5  # it will be refused, and not for the clip


def test_a_shrunk_image_is_told(run: Callable[..., Result], address: str, tiny_bundle: Path, picture: Path) -> None:
    ask = ("ask", address, "hello", "--image", picture, "--max-tokens", 2)
    by_server = run(*ask)
    assert by_server.stderr.splitlines()[0] == "large.png: shrunk from 640x480 to 288x192"
    assert run(*ask, "--quiet").stderr == ""
    assert run(*ask, "--json").stderr == ""
    local = run("ask", tiny_bundle, *ask[2:], "--max-pixels", 65_536)
    assert "large.png: shrunk from 640x480 to 288x192" in local.stderr.splitlines()
    assert "shrunk" not in run("ask", tiny_bundle, *ask[2:]).stderr


def test_max_pixels_goes_with_the_image_to_a_server(run: Callable[..., Result], address: str, picture: Path) -> None:
    small = ("--image", picture, "--max-tokens", 1, "--json")
    at_most = json.loads(run("ask", address, "hello", *small, "--max-pixels", 65_536).stdout)["timings"]["image_tokens"]
    less = json.loads(run("ask", address, "hello", *small, "--max-pixels", 32_768).stdout)["timings"]["image_tokens"]
    assert 0 < less <= 64
    assert less <= at_most <= 64


def test_max_pixels_goes_with_the_clip(run: Callable[..., Result], address: str, minute: Path) -> None:
    result = run("ask", address, "hello", "--video", minute, "--max-tokens", 1, "--max-pixels", 8192)
    assert "of 128x64 (from 192x96) fit a context of 1,024" in result.stderr


def test_without_room_for_an_answer_the_clip_is_not_to_blame(
    run: Callable[..., Result], address: str, minute: Path
) -> None:
    result = run("ask", address, "hello", "--video", minute, "--max-tokens", 5000, "--quiet")
    assert result.exit_code == 2
    assert "max_tokens can be at most" in result.stderr
