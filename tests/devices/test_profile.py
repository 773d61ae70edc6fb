"""Device profiles: those that ship are sound, and a file that is not is refused with a word on what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.devices.profile import list_profiles, load_profile, profiles_folder
from edge_runtime.errors import ProfileError

SOUND = """
name = "mine"
description = "a board of ours"
[cpu]
arch = "aarch64"
threads = 4
[memory]
available_fraction = 0.5
[limits]
context_tokens = 4096
max_pixels = 1_000_000
max_chats = 1
prefill_chunk_tokens = 64
kv_dtypes = ["fp32"]
[execution]
providers = ["cpu"]
[sources]
"cpu.threads" = "the data sheet"
"memory.available_fraction" = "choice"
"limits.context_tokens" = "choice"
"limits.max_pixels" = "choice"
"limits.max_chats" = "choice"
"limits.prefill_chunk_tokens" = "measured"
"""


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SOUND)
    return path


def test_shipped_profiles_load_by_name() -> None:
    names = [profile.name for profile in list_profiles()]
    assert {"cpu-generic", "laptop-x86-avx512", "raspberry-pi-5", "jetson-orin-nano-8gb"} <= set(names)
    for name in names:
        assert load_profile(name).name == name


def test_every_number_of_every_shipped_profile_names_its_source() -> None:
    for path in profiles_folder().glob("*.toml"):
        lines = [line.partition("=") for line in path.read_text().splitlines()]
        numbers = [key.strip() for key, _, value in lines if value.strip().replace("_", "").replace(".", "").isdigit()]
        sources = load_profile(path).sources
        assert len(numbers) >= 5
        for number in numbers:
            assert any(field.endswith(f".{number}") and len(text) > 20 for field, text in sources.items()), number


def test_profile_loads_from_a_file(profile_file: Path) -> None:
    assert load_profile(profile_file).limits.context_tokens == 4096
    assert load_profile(str(profile_file)).cpu.threads == 4


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ProfileError, match="did you mean raspberry-pi-5"):
        load_profile("rasberry-pi5")


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_chats = 1\n", "max_chats = 1\nmax_chat = 2\n", r"key limits.max_chat; \[limits\] takes .*max_chats, "),
        ("[cpu]", "cpus = 1\n[cpu]", "key cpus; a device profile takes name, description, cpu, memory"),
        ("available_fraction = 0.5", "available_fraction = nan", "available_fraction"),
        ("context_tokens = 4096", "context_tokens = 1e9", "context_tokens"),
        ("context_tokens = 4096", "context_tokens = 99999999999999999999999", "valid device profile"),
        ("threads = 4", "threads = 100000", "cpu.threads"),
        ("max_chats = 1", "max_chats = 1_000_000_000", "limits.max_chats"),
        ("max_chats = 1\n", "", "missing required field `max_chats`"),
        ("threads = 4", "threads = 0", "cpu.threads"),
        ("threads = 4", 'threads = "many"', "cpu.threads"),
        ("available_fraction = 0.5", "available_fraction = 1.5", "available_fraction"),
        ('kv_dtypes = ["fp32"]', 'kv_dtypes = ["fp8"]', "kv_dtypes"),
        ('kv_dtypes = ["fp32"]', "kv_dtypes = []", "kv_dtypes"),
        ('arch = "aarch64"', 'arch = "vax"', "arch"),
        ('name = "mine"', 'name = "yours"', "must agree"),
        ('"cpu.threads" = "the data sheet"\n', "", "no source for cpu.threads"),
        ('"cpu.threads" =', '"cpu.thread" =', "no source for cpu.threads"),
        ("[sources]", '[sources]\n"memory.total" = "?"', "memory.total"),
        ("[limits]", "[limits", "not a valid device profile"),
    ],
)
def test_unsound_file_is_refused(profile_file: Path, old: str, new: str, message: str) -> None:
    assert old in SOUND
    profile_file.write_text(SOUND.replace(old, new))
    with pytest.raises(ProfileError, match=message):
        load_profile(profile_file)


def test_a_profile_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", tmp_path):
        with pytest.raises(ProfileError, match="is not a file"):
            load_profile(path)


def test_file_that_is_not_text_is_refused(profile_file: Path) -> None:
    profile_file.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ProfileError, match="not a valid device profile"):
        load_profile(profile_file)
