"""Strict access to the JSON files of a checkpoint: a missing or mistyped field is an error that names it.

Numbers are finite and within `MAX_INTEGER` and `MAX_NUMBER`, however they are spelled: NaN and Infinity are no JSON.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from edge_export.errors import ConfigError

MAX_FILE_BYTES = 1 << 28
"""The largest tokenizer.json in the field has 33 MB."""

MAX_INTEGER = (1 << 31) - 1
"""No size, limit or token id of a model is beyond it, and none overflows in what is computed from it."""

MAX_NUMBER = 1e15

_OFF: tuple[object, ...] = (None, False, "", [], {})


class JsonObject:
    """One object of a JSON file, and where it lies, so that every complaint can name its place."""

    def __init__(self, values: dict[str, Any], place: str) -> None:
        self.values = values
        self.place = place

    def __contains__(self, field: str) -> bool:
        return self.values.get(field) is not None

    def child(self, field: str) -> JsonObject:
        """The object under `field`. Raises `ConfigError` if it is missing or not an object."""
        return JsonObject(self._typed(field, dict, "an object"), f"{self.place}: {field}")

    def integer(self, field: str, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """The integer under `field`, from `minimum` to `maximum`."""
        value = self._typed(field, int, "an integer")
        if value < minimum:
            raise ConfigError(f"{self.place}: {field} is {short(value)}; it must be at least {minimum}")
        if value > maximum:
            raise ConfigError(f"{self.place}: {field} is {short(value)}; it must be at most {maximum}")
        return int(value)

    def number(self, field: str, minimum: float = -MAX_NUMBER, maximum: float = MAX_NUMBER) -> float:
        """The number under `field` as a float, from `minimum` to `maximum`."""
        value = self._typed(field, (int, float), "a number")
        if not minimum <= value <= maximum:
            raise ConfigError(f"{self.place}: {field} is {short(value)}; it must be from {minimum} to {maximum}")
        return float(value)

    def boolean(self, field: str) -> bool:
        """The boolean under `field`."""
        value = self._required(field)
        if not isinstance(value, bool):
            raise self._mistyped(field, value, "true or false")
        return value

    def string(self, field: str) -> str:
        """The string under `field`."""
        return str(self._typed(field, str, "a string"))

    def numbers(self, field: str, count: int | None = None) -> tuple[float, ...]:
        """The list of numbers under `field`, of length `count` if given."""
        values = self._typed(field, list, "a list of numbers")
        if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
            raise self._mistyped(field, values, "a list of numbers")
        if any(not -MAX_NUMBER <= value <= MAX_NUMBER for value in values):
            raise self._mistyped(field, values, f"a list of numbers of at most {MAX_NUMBER:.0e}")
        if count is not None and len(values) != count:
            raise self._mistyped(field, values, f"a list of {count} numbers")
        return tuple(float(value) for value in values)

    def integers(self, field: str, count: int | None = None) -> tuple[int, ...]:
        """The list of integers under `field`, of length `count` if given."""
        values = self.numbers(field, count)
        if any(value != int(value) for value in values):
            raise self._mistyped(field, list(values), "a list of integers")
        return tuple(int(value) for value in values)

    def unknown(self, known: Collection[str]) -> str:
        """The fields that are not `known` and switch something on, with their values; "" if there are none."""
        names = sorted(name for name, value in self.values.items() if name not in known and value not in _OFF)
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return ", ".join(f"{short(name)[1:-1]} = {short(self.values[name], 30)}" for name in names[:8]) + more

    def _required(self, field: str) -> Any:
        value = self.values.get(field)
        if value is None:
            raise ConfigError(
                f"{self.place} has no {field}; the exporter does not guess it, so take the file "
                "from the model's original repository"
            )
        return value

    def _typed(self, field: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        value = self._required(field)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self._mistyped(field, value, wanted)
        return value

    def _mistyped(self, field: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(f"{self.place}: {field} is {short(value)}; it must be {wanted}")


def read_json(path: Path) -> JsonObject:
    """Read the object in `path`. Raises `ConfigError` if the file is missing, not JSON, or not an object."""
    if not path.exists():
        raise ConfigError(
            f"{path.parent} has no {path.name}; a Qwen3-VL checkpoint has one, so the download is incomplete"
        )
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is no file of at most {MAX_FILE_BYTES >> 20} MiB; download it again")
        raw = path.read_bytes()
        values = msgspec.json.decode(raw)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        literal = next((f" ({word.decode()} is no JSON)" for word in (b"NaN", b"Infinity") if word in raw), "")
        raise ConfigError(f"{path} cannot be read as JSON: {error}{literal}; download it again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, not an object; download it again")
    return JsonObject(values, path.name)


def read_json_if_there(path: Path) -> JsonObject:
    """As `read_json`; an object without fields where there is no such file."""
    return read_json(path) if path.exists() else JsonObject({}, path.name)


def short(value: object, limit: int = 100) -> str:
    """`value` as Python writes it, in ASCII, cut to about `limit` characters: it comes from outside."""
    try:
        text = ascii(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}..."
