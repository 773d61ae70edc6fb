"""Strict access to the JSON files of a checkpoint: a missing or mistyped field is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_export.errors import ConfigError


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

    def integer(self, field: str, minimum: int = 1) -> int:
        """The integer under `field`, at least `minimum`."""
        value = self._typed(field, int, "an integer")
        if value < minimum:
            raise ConfigError(f"{self.place}: {field} is {value}; it must be at least {minimum}")
        return int(value)

    def number(self, field: str) -> float:
        """The number under `field` as a float."""
        return float(self._typed(field, (int, float), "a number"))

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
        if count is not None and len(values) != count:
            raise self._mistyped(field, values, f"a list of {count} numbers")
        return tuple(float(value) for value in values)

    def integers(self, field: str, count: int | None = None) -> tuple[int, ...]:
        """The list of integers under `field`, of length `count` if given."""
        values = self.numbers(field, count)
        if any(value != int(value) for value in values):
            raise self._mistyped(field, list(values), "a list of integers")
        return tuple(int(value) for value in values)

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
        return ConfigError(f"{self.place}: {field} is {value!r}; it must be {wanted}")


def read_json(path: Path) -> JsonObject:
    """Read the object in `path`. Raises `ConfigError` if the file is missing, not JSON, or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent} has no {path.name}; a Qwen3-VL checkpoint has one, so the download is incomplete"
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, not an object; download it again")
    return JsonObject(values, path.name)
