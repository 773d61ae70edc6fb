"""Rotary settings of a text config: interleaved M-RoPE of the default kind, in the spellings it has had.

transformers 4.57 writes `rope_theta` and `rope_scaling`, 5.x `rope_parameters`; kinds are named by `rope_type`, by
`type` in older files, and Qwen2-VL's "mrope" is the default one with sections.
"""

from __future__ import annotations

from edge_export.checkpoint.json_file import JsonObject, short
from edge_export.errors import ConfigError

KINDS = ("default", "mrope")

_KNOWN = ("rope_type", "type", "rope_theta", "mrope_section", "mrope_interleaved", "partial_rotary_factor", "factor")
MIN_THETA = 1.0
"""At a base of 1 all frequencies are the same; below, they would rise."""


def read_rope(config: JsonObject) -> tuple[float, tuple[int, int, int]]:
    """`rope_theta` and the three sections of interleaved M-RoPE.

    Raises `ConfigError` for another kind, and where two spellings contradict each other.
    """
    places = [config.child(name) for name in ("rope_parameters", "rope_scaling") if name in config]
    if not places:
        config.child("rope_scaling")  # the complaint that it is missing
    for place in places:
        _check_kind(place)
    sections = {place.integers("mrope_section", count=3) for place in places if "mrope_section" in place}
    sections = sections or {places[0].integers("mrope_section", count=3)}
    bases = {place.number("rope_theta", minimum=MIN_THETA) for place in (*places, config) if "rope_theta" in place}
    if not bases:
        bases = {(places[0] if "rope_parameters" in config else config).number("rope_theta")}
    if negative := [list(section) for section in sections if min(section) < 0]:
        raise ConfigError(f"{config.place}: mrope_section is {negative[0]}; no section can be negative")
    for name, found in (("mrope_section", sections), ("rope_theta", bases)):
        if len(found) > 1:
            raise ConfigError(f"{config.place}: {name} is given twice, as {short(sorted(found))}; make them agree")
    (section,), (theta,) = sections, bases
    return theta, (section[0], section[1], section[2])


def _check_kind(rope: JsonObject) -> None:
    for field in ("rope_type", "type"):
        if field in rope and (kind := rope.string(field)) not in KINDS:
            raise ConfigError(
                f"{rope.place}: {field} is {short(kind)}; only 'default' can be exported. Where it was added to reach "
                "beyond the context of training (as yarn is), take it out"
            )
    if "mrope_interleaved" in rope and not rope.boolean("mrope_interleaved"):
        raise ConfigError(f"{rope.place}: mrope_interleaved is false; Qwen3-VL interleaves its sections")
    for field in ("factor", "partial_rotary_factor"):
        if field in rope and rope.number(field) != 1:
            raise ConfigError(f"{rope.place}: {field} is {short(rope.values[field])}; only 1 can be exported")
    unknown = [name for name, value in rope.values.items() if name not in _KNOWN and value is not None]
    if unknown:
        raise ConfigError(
            f"{rope.place}: {short(unknown)} are settings of rotary kinds that cannot be exported; only 'default' can"
        )
