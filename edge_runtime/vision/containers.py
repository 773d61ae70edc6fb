"""Is a file a video that stands for itself? Told by its first bytes, before a decoder sees it.

FFmpeg, which OpenCV decodes with, also follows playlists, and takes names such as `http:` and `concat:` for protocols:
it would read files and addresses that nobody named. So it is given only files of containers that hold their own frames.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import BadImage

_TS_PACKETS = (188, 192)
"""Bytes of a packet of a transport stream, without and with a time code before it (.m2ts)."""
_MAGIC = (
    *((4, kind) for kind in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),  # MP4, MOV, 3GP
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"GIF8"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\x00\x00\x01"),  # MPEG program streams, and elementary streams of MPEG-1 to HEVC
    (0, b"\x00\x00\x00\x01"),
    (0, b"\x06\x0e\x2b\x34"),  # MXF
    (0, b"DKIF"),  # IVF
    (0, b"YUV4MPEG2 "),
    (0, b"nut/multimedia container\x00"),
)
_IMAGES = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (8, b"WEBP"), (0, b"BM"))


def check_container(path: Path) -> None:
    """Raise `BadImage` unless `path` is a file that begins as a video does. Never waits, as on a pipe."""
    try:
        str(path).encode()  # OpenCV 5.0 crashes on a name that is no UTF-8
    except UnicodeEncodeError as error:
        raise BadImage(f"the name of the video {str(path)!a} is not UTF-8; rename it") from error
    try:
        if not path.is_file():
            kind = "not a file" if path.exists() else "not there"
            raise BadImage(
                f"the video {path} is {kind}; give a file on this machine (nothing is fetched from a network)"
            )
        with path.open("rb") as file:
            head = file.read(3 * max(_TS_PACKETS))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage(f"cannot read the video {path}: {getattr(error, 'strerror', None) or error}") from error
    if not head:
        raise BadImage(f"the video {path} has no bytes")
    if any(head.startswith(magic, at) for at, magic in _IMAGES):
        raise BadImage(f"{path} is an image, not a video; give it as an image (--image)")
    if not (any(head.startswith(magic, at) for at, magic in _MAGIC) or _is_transport_stream(head)):
        raise BadImage(
            f"{path} is not a video of a known container (playlists are not followed); convert it to MP4, WebM or AVI"
        )


def _is_transport_stream(head: bytes) -> bool:
    """Whether each of the first packets begins with the sync byte."""
    return any(head[size - 188 :: size][:3] == b"GGG" for size in _TS_PACKETS)
