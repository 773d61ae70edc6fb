"""The texts of a checkpoint that go along with its bundle: the chat template, the licence and the model card.

Renders nothing, and knows nothing of what they say. The template is looked for wherever transformers looks, in its
order: its processor takes `chat_template.json` where there is one (its old form), else `chat_template.jinja` and the
files of `additional_chat_templates/`, else a field of `processor_config.json`; its tokenizer has one more, in
`tokenizer_config.json`. Where a place holds several by name, the one named "default" is meant. See
`ProcessorMixin.get_processor_dict` and `apply_chat_template` (transformers 4.57).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_export.checkpoint.json_file import read_json_if_there
from edge_export.checkpoint.shards import Warn
from edge_export.errors import TokenizerError
from edge_runtime.model.manifest import CHAT_TEMPLATE, COMPANIONS

ADDITIONAL = "additional_chat_templates"
_JSON_FILES = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
_FIELD = "chat_template"
MAX_BYTES = 1 << 24
"""Of a licence or model card."""


def read_chat_template(folder: Path) -> str:
    """The Jinja chat template, wherever the checkpoint keeps it. Raises `TokenizerError` if nowhere."""
    in_json = {name: read_json_if_there(folder / name).values.get(_FIELD) for name in _JSON_FILES}
    files = sorted((folder / ADDITIONAL).glob("*.jinja")) if (folder / ADDITIONAL).is_dir() else []
    if in_json["chat_template.json"] and files:
        raise TokenizerError(
            f"{folder} has chat_template.json and {ADDITIONAL}/, and transformers reads no folder with both; remove "
            "the one that the model was not trained with"
        )
    by_name = {path.stem: path for path in files}
    if (folder / CHAT_TEMPLATE).is_file():
        by_name["default"] = folder / CHAT_TEMPLATE
    if in_json["chat_template.json"]:
        return _text(in_json["chat_template.json"], folder / "chat_template.json")
    if by_name:
        return _default({name: _read(path) for name, path in by_name.items()}, folder)
    for name in _JSON_FILES[1:]:
        if in_json[name]:
            return _text(in_json[name], folder / name)
    raise TokenizerError(
        f"{folder} has no chat template in {CHAT_TEMPLATE}, {ADDITIONAL}/, {', '.join(_JSON_FILES)}; add "
        f"{CHAT_TEMPLATE} from the model's original repository"
    )


def companion_files(folder: Path, warn: Warn) -> Iterator[Path]:
    """The files of `COMPANIONS` in `folder`; `warn` is told of those that do not go along.

    A link that leads out of the folder is not followed, unless into the hub's cache: bundles are handed on, and a
    stranger's archive could name any file of this machine as its licence.
    """
    for path in (folder / name for name in COMPANIONS):
        if not path.is_file():
            continue
        if path.is_symlink() and not _lies_in(path.resolve(), folder.resolve()):
            warn(f"{path.name} is a link to {path.resolve()}, outside the checkpoint; it is not copied into the bundle")
        elif path.stat().st_size > MAX_BYTES:
            warn(f"{path.name} has more than {MAX_BYTES >> 20} MiB; it is not copied into the bundle")
        else:
            yield path


def _text(value: Any, place: Path) -> str:
    """A template as a JSON file has it: a string, a map by name, or a list of {name, template}."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {item.get("name"): item.get("template") for item in value}
    return _default(value if isinstance(value, dict) else {"default": value}, place)


def _default(by_name: dict[Any, Any], place: Path) -> str:
    template = by_name.get("default")
    if "default" not in by_name:
        raise TokenizerError(
            f"{place} has chat templates named {', '.join(map(str, sorted(by_name, key=str)))}, but none is named "
            '"default", so transformers would not know which to use either; name one so'
        )
    if not isinstance(template, str) or not template.strip():
        raise TokenizerError(
            f"{place}: the chat template is no text; take the file from the model's original repository"
        )
    try:
        template.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{place}: the chat template is not valid Unicode: {error}; download it again") from error
    return template


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read as UTF-8: {error}; download it again") from error


def _lies_in(target: Path, folder: Path) -> bool:
    cached = folder.parent.name == "snapshots" and target.is_relative_to(folder.parents[1] / "blobs")
    return cached or target.is_relative_to(folder)
