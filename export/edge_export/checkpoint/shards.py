"""Which files of a folder hold the weights: one, or the shards of an index. Knows no tensor of any model.

As transformers has it, `model.safetensors` wins over an index, and safetensors over every other format. What lies there
unread is named, because it may be what was meant: a leftover of an earlier save, or the newer one in another format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_export.checkpoint.json_file import read_json, short
from edge_export.checkpoint.safetensors_file import TensorEntry, read_header
from edge_export.errors import ConfigError, CorruptShard, MissingShard, UnmergedAdapter

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

MAX_FILE_NAME_BYTES = 255

Warn = Callable[[str], None]
"""Takes one sentence that the user has to read."""

_ADAPTER = re.compile(r"(^|[^a-z])(adapters?|[qd]?lora|dora|lokr|loha|ia3|non_lora\w*)([^a-z]|$)", re.IGNORECASE)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".gguf")
_OTHER_WEIGHTS = re.compile(r"(pytorch_model|model|consolidated|tf_model|flax_model).*\.(bin|pt|pth|gguf|h5|msgpack)")

MERGE_FIRST = (
    "merge it first (peft: model.merge_and_unload(), then save_pretrained(...), with the processor) and export the "
    "merged folder"
)


def read_shards(folder: Path, warn: Warn) -> tuple[dict[str, TensorEntry], tuple[Path, ...]]:
    """All tensors in `folder` by the names in their files, and the files.

    Raises `UnmergedAdapter`, `MissingShard` or `CorruptShard`.
    """
    refuse_adapter_files(folder)
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    shards: tuple[Path, ...]
    if single.is_file():
        entries, shards = read_header(single), (single,)
        if index.exists() and not _names_only_single(index):
            warn(
                f"{SINGLE_NAME} is read, as transformers does; {INDEX_NAME} beside it, and the shards it names, are not"
            )
    elif index.is_file():
        weight_map = _read_index(index)
        shards = tuple(folder / name for name in sorted(set(weight_map.values())))
        entries = _read_indexed(index, weight_map, shards)
    else:
        raise _no_weights(folder)
    unread = sorted(path.name for path in folder.iterdir() if path not in shards and _holds_weights(path.name))
    if unread:
        warn(
            f"not read: {', '.join(unread[:6])}{' and more' * (len(unread) > 6)}; only {SINGLE_NAME} or its shards are"
        )
    return entries, shards


def indexed_names(folder: Path) -> tuple[str, ...]:
    """The tensors that the index of `folder` lists, whether or not its shards are there; none where none is read."""
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    if single.is_file() or not index.is_file():
        return ()
    weight_map = read_json(index).values.get("weight_map")
    return tuple(weight_map) if isinstance(weight_map, dict) else ()


def name_code(folder: Path, warn: Warn) -> None:
    """Name programs, and adapters in folders below, that lie in a checkpoint and are not run, or read."""
    if code := sorted(path.name for path in folder.glob("*.py")):
        warn(f"not run: {', '.join(code[:4])}; if one of these changes the model, the bundle is not what was trained")
    if adapters := sorted(path.parent.name for path in folder.glob("*/adapter_config.json")):
        warn(
            f"not read: the adapters in {', '.join(adapters[:4])}; if they are not merged into the weights, merge them"
        )


def refuse_adapter_files(folder: Path) -> None:
    """Raise `UnmergedAdapter` if an adapter lies in `folder`, alone or beside full weights."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.startswith(("adapter_config.", "adapter_model."))
        or (_ADAPTER.search(path.stem) and path.suffix in _WEIGHT_SUFFIXES)
    )
    if not names:
        return
    method = ""
    if "adapter_config.json" in names:
        peft_type = read_json(folder / "adapter_config.json").values.get("peft_type")
        method = f" ({short(peft_type)})" if peft_type is not None else ""
    raise UnmergedAdapter(
        f"{folder} holds an adapter{method}: {', '.join(names[:4])}; the exporter does not apply adapters, so "
        f"{MERGE_FIRST}. Where the weights beside it have it merged already, move the adapter's files elsewhere"
    )


def _names_only_single(index: Path) -> bool:
    try:
        return set(read_json(index).values["weight_map"].values()) == {SINGLE_NAME}
    except (ConfigError, KeyError, AttributeError, TypeError):
        return False


def _read_index(index: Path) -> dict[str, str]:
    """Shard by tensor name, every shard known to be there."""
    try:
        weight_map = msgspec.convert(read_json(index).values.get("weight_map"), dict[str, str])
    except (ConfigError, msgspec.ValidationError) as error:
        raise CorruptShard(f"{index} is no index of shards ({error}); download it again") from error
    names = sorted(set(weight_map.values()))
    # A name is a plain file name: an index must not lead out of its folder.
    bad = [name for name in names if not _is_plain(name)]
    if not names or bad:
        raise CorruptShard(f"{index} names the files {short(bad)}; they must lie beside it. Download it again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise MissingShard(
            f"{index.parent} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:4])}; "
            "finish the download"
        )
    return weight_map


def _is_plain(name: str) -> bool:
    return (
        Path(name).name == name
        and name not in {"", ".", ".."}
        and name.isprintable()
        and len(name.encode()) <= MAX_FILE_NAME_BYTES
    )


def _read_indexed(index: Path, weight_map: dict[str, str], shards: tuple[Path, ...]) -> dict[str, TensorEntry]:
    """The tensors of all shards; index and shards must say the same."""
    entries: dict[str, TensorEntry] = {}
    for shard in shards:
        for name, entry in read_header(shard).items():
            if name in entries:
                raise CorruptShard(
                    f"{name} lies in {entries[name].path.name} and in {shard.name}; one of them is a leftover of an "
                    "earlier save, so remove the old shards, or download again"
                )
            if weight_map.get(name) != shard.name:
                where = f"places it in {weight_map[name]}" if name in weight_map else "does not list it"
                raise CorruptShard(
                    f"{shard} holds {name}, but {index.name} {where}; index and shards are of different saves, so "
                    "take both from one"
                )
            entries[name] = entry
    if lacking := sorted(weight_map.keys() - entries.keys()):
        raise CorruptShard(
            f"{index} lists {len(lacking)} tensors that its shards lack, such as {short(lacking[0])} in "
            f"{weight_map[lacking[0]]}; index and shards are of different saves, so take both from one"
        )
    return entries


def _holds_weights(name: str) -> bool:
    return name.endswith(".safetensors") or _OTHER_WEIGHTS.fullmatch(name) is not None


def _no_weights(folder: Path) -> MissingShard:
    if found := sorted(path.name for path in folder.glob("*.safetensors")):
        return MissingShard(
            f"{folder} holds {', '.join(found[:4])}, but neither {SINGLE_NAME} nor {INDEX_NAME}; download the index "
            f"too, or, if one file holds the whole model under transformers' names, call it {SINGLE_NAME}"
        )
    return MissingShard(
        f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}; the exporter reads safetensors only, so convert "
        ".bin weights with save_pretrained(..., safe_serialization=True)"
    )
