"""`device_profiles/*.toml`: what we know about a device, and how much of it a model may use.

Strict: unknown fields are refused, and every number must name where it comes from in the `[sources]` table.
Knows nothing of models, and nothing of the machine it runs on (`probe.py` does).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edge_runtime.errors import ProfileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KVDtype = Literal["fp32", "fp16", "int8"]
ExecutionProvider = Literal["cpu", "cuda"]
_Positive = Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1)]
_Bytes = Annotated[int, msgspec.Meta(gt=0, le=2**62)]
_Few = Annotated[int, msgspec.Meta(gt=0, le=1024)]
_Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every profile table: strict. mypy wants `frozen` and `kw_only` said again by every heir."""


class Cpu(_Record, frozen=True, kw_only=True):
    """The processor. `features` are hints in the spelling of /proc/cpuinfo, used to recognize the device."""

    arch: Literal["any", "x86_64", "aarch64"]
    features: tuple[str, ...] = ()
    model_hint: str | None = None
    """A piece of the board's model name, for boards that say who they are (/proc/device-tree/model)."""
    threads: _Few | Literal["auto"]
    """Threads of one graph run; "auto" is one per physical core this process may use."""


class Memory(_Record, frozen=True, kw_only=True):
    """The budget is the fraction of the memory available at start, and never more than `max_budget_bytes`."""

    available_fraction: _Fraction
    max_budget_bytes: _Bytes | None = None


class ProfileLimits(_Record, frozen=True, kw_only=True):
    """What the memory planner starts from; it goes lower where the memory is too small."""

    context_tokens: _Positive
    max_pixels: _Positive
    max_chats: _Few
    prefill_chunk_tokens: _Positive
    kv_dtypes: Annotated[tuple[KVDtype, ...], msgspec.Meta(min_length=1)]
    """Acceptable storage of keys and values, the preferred one first."""


class Execution(_Record, frozen=True, kw_only=True):
    """ONNX Runtime execution providers, the preferred one first; those the installed build lacks are passed over."""

    providers: Annotated[tuple[ExecutionProvider, ...], msgspec.Meta(min_length=1)]


class DeviceProfile(_Record, frozen=True, kw_only=True):
    """One device profile file."""

    name: str
    description: str
    cpu: Cpu
    memory: Memory
    limits: ProfileLimits
    execution: Execution
    sources: dict[str, str]
    """Where each number comes from, by dotted field name: a page, a measurement, or the reason of a choice."""


def profiles_folder() -> Path:
    """The folder of the profiles that come with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "device_profiles", package.parent / "device_profiles"):
        if folder.is_dir():
            return folder
    raise ProfileError(f"no device_profiles folder in or beside {package}; install edge-runtime again")


def list_profiles() -> tuple[DeviceProfile, ...]:
    """All profiles that come with the package, by name. Raises `ProfileError` if one is malformed."""
    return tuple(_read(path) for path in sorted(profiles_folder().glob("*.toml")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Load a profile by its name, or from a TOML file.

    Raises `ProfileError` if there is none of that name (the nearest names are given) or the file is malformed.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        return _read(Path(name_or_path))
    names = [path.stem for path in sorted(profiles_folder().glob("*.toml"))]
    if text in names:
        return _read(profiles_folder() / f"{text}.toml")
    near = difflib.get_close_matches(text, names, n=2, cutoff=0.4)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise ProfileError(f"no device profile {text!r}; {guess}Known: {', '.join(names)}, or the path of a .toml file")


def _read(path: Path) -> DeviceProfile:
    try:
        if path.exists() and not path.is_file():
            raise ProfileError(f"the device profile {path} is not a file; give a .toml file, or a profile's name")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        _check_keys(raw, DeviceProfile, path)
        profile = msgspec.convert(raw, DeviceProfile)
    except OSError as error:
        raise ProfileError(f"cannot read the device profile {path}: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise ProfileError(f"{path} is not a valid device profile: {error}") from error
    if profile.name != path.stem:
        raise ProfileError(f"{path} calls itself {profile.name!r}; name and file name must agree")
    numbers = set(_numbers(raw))
    if missing := sorted(numbers - profile.sources.keys()):
        raise ProfileError(f"{path}: no source for {', '.join(missing)}; say in [sources] where each number comes from")
    if unused := sorted(profile.sources.keys() - numbers):
        raise ProfileError(f"{path}: [sources] names {', '.join(unused)}, which are not numbers of this profile")
    return profile


def _check_keys(table: dict[str, Any], record: type[_Record], path: Path, prefix: str = "") -> None:
    """Raise `ProfileError` with the keys there are for one that there is not."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(record)}
    for key, value in table.items():
        if key not in kinds:
            where = f"[{prefix[:-1]}] takes" if prefix else "a device profile takes"
            raise ProfileError(f"{path} has an unknown key {prefix}{key}; {where} {', '.join(kinds)}")
        kind = kinds[key]
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, _Record):
            _check_keys(value, kind, path, f"{prefix}{key}.")


def _numbers(table: dict[str, object], prefix: str = "") -> Iterator[str]:
    """Dotted names of all numbers in a TOML document."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{key}"
