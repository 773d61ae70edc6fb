"""`tokenizer.json` to token ids, and token ids to the exact bytes they stand for. Knows nothing of templates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as _Tokenizer
from tokenizers import decoders, models

from edge_runtime.errors import BadParameter, BadPrompt, BundleError
from edge_runtime.model.tokenizer_parts import check_parts

MAX_TOKENIZER_BYTES = 1 << 28
_MOST_GAPS = 8192
"""More would take llguidance seconds, and then minutes; real tokenizers have none, or some tens."""
_LONG_TEXT_BYTES = 1 << 16
"""Texts up to here are tokenized in some ten milliseconds, so nothing is saved by counting them another way first."""


class Tokenizer:
    """A byte-level BPE tokenizer (the kind every Qwen model has)."""

    def __init__(self, path: Path) -> None:
        """Load `tokenizer.json`. Raises `BundleError` if it is malformed, not byte-level, or made of untried parts."""
        try:
            if (size := path.stat().st_size) > MAX_TOKENIZER_BYTES:
                raise ValueError(f"it has {size} bytes, and the largest known have some 30 million")
            with _panics_as_errors():
                self._tokenizer = _Tokenizer.from_file(str(path))
                check_parts(self._tokenizer)
        except Exception as error:  # all the library raises, for every kind of malformed file
            raise BundleError(f"{path} is not a tokenizer: {error}; export the bundle again") from error
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            raise BundleError(
                f"{path} has the decoder {self._tokenizer.decoder!r}; this runtime reads byte-level BPE only, the kind "
                "that Qwen models have"
            )
        self._path = path
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._added = self._tokenizer.get_added_tokens_decoder()
        self.added_ids = np.array(sorted(self._added), dtype=np.int64)
        """Ids of the tokens that are matched as whole strings."""
        self._byte_of_char = _byte_of_char()

    def text_without_gaps(self) -> str:
        """`tokenizer.json`, in which every id up to the last has a token: who counts them gets the last one right.

        Raises `BadParameter` where there are too many without one.
        """
        known = set(self._tokenizer.get_vocab().values())
        text = self._path.read_text(encoding="utf-8")
        missing = set(range(max(known))) - known
        if not missing:
            return text
        if len(missing) > _MOST_GAPS:
            raise BadParameter(
                f"the model's tokenizer leaves {len(missing)} ids without a token, and grammars are made with up to "
                f"{_MOST_GAPS} of them; ask without a grammar"
            )
        content = json.loads(text)
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"] += [
            {"id": token_id, "content": f"<|unused {token_id}|>", "special": True, **plain}
            for token_id in sorted(missing)
        ]
        content["added_tokens"].sort(key=lambda token: token["id"])
        return json.dumps(content)

    @property
    def added_tokens(self) -> dict[str, bool]:
        """The tokens that are matched as whole strings, and whether each is special."""
        return {token.content: token.special for token in self._added.values()}

    def pair_of_added(self, start: str, end: str) -> tuple[int, int] | None:
        """Ids of the two added tokens with these spellings; None where either is missing."""
        ids = {token.content: token_id for token_id, token in self._added.items()}
        return (ids[start], ids[end]) if start in ids and end in ids else None

    def encode(
        self, text: str, shields: Mapping[int, str] | None = None, *, add_special_tokens: bool = True
    ) -> NDArray[np.int64]:
        """Token ids [T] of `text`; strings of special tokens become those tokens.

        `add_special_tokens`: with what the tokenizer puts around every text, if anything; Qwen's puts nothing.

        `shields` are code points in `text` that are read as another character, and as mere text: a token spelled with
        them is none. Raises `BadPrompt` for text that is not valid Unicode (lone surrogates), or that the tokenizer
        gives up on.
        """
        _utf8(text)
        try:
            with _panics_as_errors():
                if shields:
                    return self._encode_shielded(text, shields, add_special_tokens)
                # A batch of one: unlike `encode`, it lets other threads run meanwhile (tokenizers 0.22).
                (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
                return np.array(encoding.ids, dtype=np.int64)
        except RuntimeError as error:
            raise BadPrompt(f"the tokenizer gives up on this text: {error}; leave out what is unusual in it") from error

    def _encode_shielded(self, text: str, shields: Mapping[int, str], add_special_tokens: bool) -> NDArray[np.int64]:
        """As `encode`: stretches between added tokens that hold shields are encoded apart, as mere text."""
        shield = re.compile("[" + "".join(re.escape(chr(code)) for code in shields) + "]")
        clean: list[str] = []  # with their added tokens; one before each shielded stretch, one at the end
        plain: list[str] = []
        begin = done = 0
        for start, stop in [*self._finder.encode_batch([text])[0].offsets, (len(text), len(text))]:
            if shield.search(text, done, start):
                clean.append(text[begin:done])
                plain.append(text[done:start].translate(shields))
                begin = start
            done = stop
        clean.append(text[begin:])
        encoded = [np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch(clean, add_special_tokens=False)]
        head, tail = self._around if add_special_tokens else ([], [])
        between = [piece for pair in zip(self._encode_plain(plain), encoded[1:], strict=True) for piece in pair]
        return np.concatenate([np.array(head, np.int64), encoded[0], *between, np.array(tail, np.int64)])

    def _encode_plain(self, texts: list[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, in which no added token is looked for: what the library does between them."""
        encoded = [np.array(e.ids, np.int64) for e in self._plain.encode_batch(texts, add_special_tokens=False)]
        for ids in encoded:
            spelled = ids[np.isin(ids, self.added_ids)]
            if len(spelled):
                raise BadPrompt(f"this tokenizer cannot write {self.token_text(int(spelled[0]))} as text; leave it out")
        return encoded

    def min_tokens(self, text: str, shields: Mapping[int, str] | None = None) -> int:
        """A lower bound on the number of tokens of `text`: none stands for more bytes than the longest there is.

        Costs next to nothing, so that a text of megabytes is refused without being tokenized; of a text that costs
        next to nothing itself it is 0. Raises as `encode`.
        """
        num_bytes = len(_utf8(text.translate(shields) if shields else text))
        if num_bytes <= _LONG_TEXT_BYTES or self._longest is None:
            return 0
        if self._tokenizer.normalizer is not None:  # it may shorten the text first
            num_bytes = len(self._tokenizer.normalizer.normalize_str(text).encode("utf-8"))
        return -(-num_bytes // self._longest)

    def token_text(self, token_id: int) -> str:
        """The literal string of a token, such as `<|image_pad|>`. Raises `BundleError` for an id that has none."""
        text = self._tokenizer.id_to_token(token_id)
        if text is None:
            raise BundleError(
                f"the tokenizer has no token {token_id}, which the manifest names; export the bundle again"
            )
        return str(text)

    def detokenize(self, token_ids: Iterable[int]) -> bytes:
        """The bytes the tokens stand for; special tokens, and ids without a token, give none.

        Raises `BundleError` for a token that is not made of bytes.
        """
        return b"".join(self._token_bytes(int(token_id)) for token_id in token_ids)

    def _token_bytes(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return b"" if added.special else added.content.encode("utf-8")
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        try:
            return bytes([self._byte_of_char[char] for char in token or ""])
        except KeyError as error:
            raise BundleError(f"token {token_id} {token!r} is not byte-level; export the bundle again") from error

    @cached_property
    def _plain(self) -> _Tokenizer:
        """The same tokenizer without its added tokens; the two share their model, so it takes no memory."""
        plain = _Tokenizer(self._tokenizer.model)
        if self._tokenizer.normalizer is not None:
            plain.normalizer = self._tokenizer.normalizer
        if self._tokenizer.pre_tokenizer is not None:
            plain.pre_tokenizer = self._tokenizer.pre_tokenizer
        return plain

    @cached_property
    def _finder(self) -> _Tokenizer:
        """A tokenizer that knows the added tokens and nothing else: it tells where they are, at next to no cost."""
        finder = _Tokenizer(models.BPE())
        if self._tokenizer.normalizer is not None:
            finder.normalizer = self._tokenizer.normalizer
        for token in self._added.values():
            (finder.add_special_tokens if token.special else finder.add_tokens)([token])
        return finder

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind every text."""
        encoding = self._tokenizer.encode("a")
        own = [i for i, is_put in enumerate(encoding.special_tokens_mask) if not is_put]
        return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]

    @cached_property
    def _longest(self) -> int | None:
        """Bytes of the longest token, the strings of special tokens included; None where a token may swallow spaces.

        Looked for when first asked: it takes a tenth of a second with Qwen's vocabulary.
        """
        added = self._added.values()
        if any(token.lstrip or token.rstrip for token in added):
            return None
        plain = self._tokenizer.get_vocab(with_added_tokens=False)  # one character is one byte
        return max([1, *map(len, plain), *(len(token.content.encode("utf-8")) for token in added)])


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """The library's own failures are no `Exception`; inside this block they are `RuntimeError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadPrompt(f"the text is not valid Unicode: {error}; remove lone surrogates") from error


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: itself, or one from U+0100 on (GPT-2)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
