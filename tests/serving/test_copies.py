"""A client's copies of pictures are of what they are now, whatever lay in the same place before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.model.conversation import PictureDigest
from edge_runtime.serving.copies import PictureCopies

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed."""
    sizes: list[int] = []
    of = PictureDigest.of

    def counting(picture: bytes | NDArray[np.uint8]) -> PictureDigest:
        sizes.append(len(picture) if isinstance(picture, bytes) else picture.nbytes)
        return of(picture)

    monkeypatch.setattr(PictureDigest, "of", counting)
    return sizes


def test_what_comes_again_is_neither_copied_nor_hashed(hashed: list[int]) -> None:
    copies, file, pixels = PictureCopies(), b"x" * 300, PIXELS.copy()
    first = [copies.of(file), copies.of(pixels)]
    copies.begin()
    again = [copies.of(file), copies.of(pixels)]
    assert hashed == [300, pixels.nbytes]
    assert [one.data is other.data for one, other in zip(first, again, strict=True)] == [True, True]
    assert first[0].data is file


def test_small_pictures_are_not_hashed(hashed: list[int]) -> None:
    copies = PictureCopies()
    assert copies.of(b"x" * 255).digest is copies.of(PIXELS[:1, :85]).digest is None
    assert hashed == []
    assert copies.of(b"x" * 256).digest is not None


SHAPES = [(16, 24, 3), (24, 16, 3), (16, 23, 3), (8, 48, 3), (5, 37, 3)]


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.integers(0, 3), st.integers(0, 1200)), max_size=12))
def test_a_buffer_that_is_used_again_gives_what_is_in_it(frames: list[tuple[tuple[int, int, int], int, int]]) -> None:
    """A frame grabber's: the same memory, views of it that come and go, single bytes that differ."""
    copies, buffer = PictureCopies(), bytearray(1 + 16 * 24 * 3)
    for shape, offset, changed in frames:
        buffer[min(changed, len(buffer) - 1)] ^= 1
        size = int(np.prod(shape))
        start = offset if offset + size <= len(buffer) else 0
        pixels = np.frombuffer(buffer, np.uint8)[start : start + size].reshape(shape)
        for picture in (pixels, pixels[:, ::-1]):
            copies.begin()
            copy = copies.of(picture)
            assert copy.data == picture.tobytes()
            assert copy.digest == PictureDigest.of(np.ascontiguousarray(picture)).digest


def test_an_array_in_the_place_of_another_is_not_taken_for_it() -> None:
    copies, seen = PictureCopies(), set()
    for number in range(50):
        picture = np.full((16, 24, 3), number, np.uint8)  # often at the address of the last one, with its id
        copy = copies.of(picture)
        assert copy.data == picture.tobytes()
        seen.add(copy.digest)
        del picture
    assert len(seen) == 50


def test_copies_are_bounded_and_the_first_of_a_long_history_stay(
    monkeypatch: pytest.MonkeyPatch, hashed: list[int]
) -> None:
    monkeypatch.setattr("edge_runtime.serving.copies._MAX_BYTES", 1000)
    copies = PictureCopies()
    history = [bytes([number]) * 400 for number in range(4)]
    for _ in range(3):
        copies.begin()
        for picture in history:
            copies.of(picture)
        assert copies._num_bytes == sum(len(copy.data) for copy in copies._copies.values()) == 800
    assert len(hashed) == 4 + 2 + 2
    for _ in range(3):  # another history: the old one gives way
        copies.begin()
        for picture in (b"a" * 500, b"b" * 1001):
            copies.of(picture)
    assert {len(copy.data) for copy in copies._copies.values()} <= {400, 500}
    assert 500 in {len(copy.data) for copy in copies._copies.values()}
    assert copies._num_bytes <= 1000
