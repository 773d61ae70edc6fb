"""Every error the exporter raises on purpose, in one tree.

    ExportError
    ├── SourceError            SOURCE is no folder, or the hub cannot give it
    ├── ConfigError            a configuration file is missing, malformed, or describes another model
    ├── TokenizerError         tokenizer, chat template or a special token is missing
    ├── WeightsError           the weights cannot be used
    │   ├── MissingShard       a safetensors file named by the index is not there
    │   ├── CorruptShard       a safetensors file is truncated or malformed
    │   ├── MissingTensor      the checkpoint lacks a tensor of the architecture
    │   ├── WrongShape         a tensor's shape contradicts config.json
    │   ├── UnknownDtype       a tensor is stored in a type we cannot read
    │   ├── UnmergedAdapter    an adapter (LoRA and the like) lies in the folder, or around the weights
    │   ├── UnusedTensor       the checkpoint holds tensors that the bundle would not
    │   └── NotFinite          a tensor holds NaN, Inf, or numbers whose squares would soon be
    ├── MissingPackage         a package of the extra is not installed, or broken
    ├── OptionError            options that do not fit together or do not fit the model
    ├── OutputExists           OUT is there already
    ├── DiskFull               not enough room for the bundle
    └── ParityFailed           the exported graphs do not compute what the checkpoint does

A message says what was found, what was wanted, and what to do. The command prints it and exits with status 2
(1 for ParityFailed: the input was fine).
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of all errors raised on purpose by `edge_export`."""


class SourceError(ExportError):
    """SOURCE is no folder, or the hub cannot give it."""


class ConfigError(ExportError):
    """A configuration file is missing, malformed, or describes a model that is not a dense Qwen3-VL."""


class TokenizerError(ExportError):
    """The tokenizer, the chat template or a special token is missing."""


class WeightsError(ExportError):
    """The weights cannot be used."""


class MissingShard(WeightsError):
    """A safetensors file of the checkpoint is not there."""


class CorruptShard(WeightsError):
    """A safetensors file, or the index of the shards, is truncated or malformed."""


class MissingTensor(WeightsError):
    """The checkpoint lacks a tensor of the architecture."""


class WrongShape(WeightsError):
    """A tensor's shape contradicts `config.json`."""


class UnknownDtype(WeightsError):
    """A tensor is stored in a type the exporter cannot read."""


class UnmergedAdapter(WeightsError):
    """An adapter (LoRA and the like) lies in the folder, or around the weights."""


class UnusedTensor(WeightsError):
    """The checkpoint holds tensors that the bundle would not: it would be another model than was trained."""


class NotFinite(WeightsError):
    """A tensor holds NaN, Inf, or numbers whose squares would soon be."""


class MissingPackage(ExportError):
    """A package that the export needs is not installed, or cannot be imported."""


class OptionError(ExportError):
    """Options that do not fit together, or do not fit the model."""


class OutputExists(ExportError):
    """The output folder is there already and may not be replaced."""


class DiskFull(ExportError):
    """The disk has not enough room for the bundle."""


class ParityFailed(ExportError):
    """The exported graphs do not compute what the checkpoint does."""
