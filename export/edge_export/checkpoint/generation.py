"""`generation_config.json`: how a checkpoint wants its answers sampled. End tokens are read in `tokenizer.py`."""

from __future__ import annotations

from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject, read_json_if_there, short
from edge_export.checkpoint.shards import Warn
from edge_runtime.model.manifest import GenerationDefaults

SAMPLED_TOP_K = 50
"""What transformers' GenerationConfig takes when it samples and the file names no top_k."""

TEMPERATURES, TOP_PS, REPETITION_PENALTIES = (0.0, 100.0), (1e-6, 1.0), (1e-3, 100.0)
"""What `SamplingParams` of the runtime takes."""

_NOT_READ = {
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "length_penalty": (1,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": (),
    "stop_strings": (),
    "watermarking_config": (),
}
"""Settings that change answers elsewhere, with the values that change nothing."""


def read_generation_defaults(folder: Path, warn: Warn = lambda _: None) -> GenerationDefaults:
    """The checkpoint's own sampling defaults; greedy, as in transformers, where it asks for no sampling.

    `warn` is told of settings that bundles do not have. Raises `ConfigError` for a value out of the runtime's range.
    """
    config = read_json_if_there(folder / "generation_config.json")
    sampled = "do_sample" in config and config.boolean("do_sample")
    _name_not_read(config, warn)
    if not sampled:
        config = JsonObject({"repetition_penalty": config.values.get("repetition_penalty")}, config.place)

    def number(field: str, limits: tuple[float, float], default: float) -> float:
        return config.number(field, *limits) if field in config else default

    return GenerationDefaults(
        temperature=number("temperature", TEMPERATURES, float(sampled)),
        top_k=_top_k(config, sampled),
        top_p=number("top_p", TOP_PS, 1.0),
        repetition_penalty=number("repetition_penalty", REPETITION_PENALTIES, 1.0),
    )


def _top_k(config: JsonObject, sampled: bool) -> int:
    """0 is off; files written for vLLM say so with -1."""
    if "top_k" not in config:
        return SAMPLED_TOP_K * sampled
    return max(0, config.integer("top_k", minimum=-1))


def _name_not_read(config: JsonObject, warn: Warn) -> None:
    found = [
        f"{field} = {short(config.values[field], 30)}"
        for field, neutral in _NOT_READ.items()
        if field in config and config.values[field] not in (*neutral, [], {})
    ]
    if found:
        warn(f"{config.place}: not read: {', '.join(found)}; a request may set what the runtime offers of these")
