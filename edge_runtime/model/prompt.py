"""Messages and planned media to token ids, as transformers' `Qwen3VLProcessor`. Decodes no pixel.

The one difference: text that spells a control token (`<|im_end|>`, `<|vision_start|>`, ...) stays text, unless
`parse_special` asks for transformers' behaviour (decision 50). The two placeholders stand for no image in either case:
`<|image_pad|>` or `<|video_pad|>` in a text part is refused as `BadPrompt`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BadParameter, BadPrompt, ContextOverflow
from edge_runtime.families.qwen3_vl.processor import Placeholder, VisionSpan
from edge_runtime.model.answers import DrawnAnswers
from edge_runtime.model.control_tokens import ControlTokens, Shielded
from edge_runtime.model.conversation import Message, check_tool_messages
from edge_runtime.model.manifest import SpecialTokens
from edge_runtime.model.template import ChatTemplate
from edge_runtime.model.thoughts import DroppedThought
from edge_runtime.model.tokenizer import Tokenizer
from edge_runtime.model.tools import CALL_END, CALL_START, ToolDefinition


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedPrompt:
    """A prompt as token ids."""

    input_ids: NDArray[np.int64]
    """[T], placeholders expanded."""
    spans: tuple[VisionSpan, ...]
    """One per vision run, in order."""
    short_ids: NDArray[np.int64]
    """The same with one token per vision run."""
    starts_in_reasoning: bool
    """Whether the template left a `<think>` open for the answer."""
    thoughts: tuple[DroppedThought, ...]
    """Those in it that were dropped, which a history does not have."""


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a chat is made a prompt."""

    enable_thinking: bool | None = None
    """None: as the chat template has it."""
    tools: Sequence[ToolDefinition] = ()
    """What the model is told that it may call."""
    parse_special: bool = False
    """Whether control tokens spelled in texts become those tokens."""
    salt: bytes = b""
    """As that of `DrawnAnswers.restore`."""


class PromptBuilder:
    """Renders, expands and tokenizes chats of one bundle."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, special: SpecialTokens) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._special = special
        self._controls = ControlTokens(tokenizer.added_tokens)
        start, end = special.think_start, special.think_end
        think_ids = None if start is None or end is None else (start, end)
        self.tool_call_ids = tokenizer.pair_of_added(CALL_START, CALL_END)
        """Tokens around a call, or None where the model has none."""
        self.answers = DrawnAnswers(tokenizer, special.eos, think_ids, self.tool_call_ids)
        """Those in a history are tokenized as they were drawn."""
        self._image_pad = tokenizer.token_text(special.image_pad)
        self._video_pad = tokenizer.token_text(special.video_pad)
        self._vision_start = tokenizer.token_text(special.vision_start)
        self._vision_end = tokenizer.token_text(special.vision_end)
        wrapped_video = f"{self._vision_start}{self._video_pad}{self._vision_end}"
        self._marker = re.compile("|".join(map(re.escape, (wrapped_video, self._video_pad, self._image_pad))))
        self._think = None if special.think_start is None else tokenizer.token_text(special.think_start)

    @property
    def switches_thinking(self) -> bool:
        """Whether a request may say if the model thinks."""
        return self._template.switches_thinking

    def build(
        self,
        messages: Sequence[Message],
        media: Sequence[Placeholder],
        max_context: int | None = None,
        options: PromptOptions = PromptOptions(),
    ) -> TokenizedPrompt:
        """Token ids of `messages`, whose images and videos take up `media`, in order.

        Raises `BadPrompt`, `BadParameter` for an `enable_thinking` that the chat template cannot do, and
        `ContextOverflow` for what is far beyond `max_context` tokens before any work is spent on it; a prompt a little
        too long is for the caller to notice.
        """
        tools, enable_thinking = options.tools, options.enable_thinking
        num_media = sum(placeholder.num_tokens for placeholder in media)
        refuse_overflow(num_media, "images and videos", max_context)
        self._refuse_placeholders(messages)
        self._refuse_tools(tools)
        check_tool_messages(messages)
        shielded = Shielded(messages, {}, tools) if options.parse_special else self._controls.shield(messages, tools)
        text = self._template.render(shielded.messages, enable_thinking, shielded.tools)
        thinks = self._think is not None and text.rstrip().endswith(self._think)
        if enable_thinking is not None and enable_thinking != thinks and not self._template.switches_thinking:
            habit = "always reasons first" if thinks else "never reasons first"
            raise BadParameter(f"this model {habit}, by its chat template; leave enable_thinking out")
        refuse_overflow(self._tokenizer.min_tokens(text, shielded.shields), "text", max_context)
        ids = self._tokenizer.encode(
            self._expand(text, media), shielded.shields, add_special_tokens=not self._template.begins(text)
        )
        ids, thoughts = self.answers.as_drawn(ids, options.salt, [message.dropped for message in messages])
        grids = [grid for placeholder in media for grid in placeholder.grids]
        is_pad = (ids == self._special.image_pad) | (ids == self._special.video_pad)
        counts = np.ones(len(ids), dtype=np.int64)
        counts[is_pad] = [grid.num_tokens for grid in grids]
        places = np.cumsum(counts) - counts
        return TokenizedPrompt(
            input_ids=np.repeat(ids, counts),
            short_ids=ids,
            spans=tuple(VisionSpan(int(start), grid) for start, grid in zip(places[is_pad], grids, strict=True)),
            starts_in_reasoning=thinks,
            thoughts=tuple(
                DroppedThought(int(places[one.start]), int(places[one.stop]), one.number) for one in thoughts
            ),
        )

    def _refuse_tools(self, tools: Sequence[ToolDefinition]) -> None:
        if tools and self.tool_call_ids is None:
            raise BadPrompt(
                f"this model's tokenizer has no tokens for tool calls, {CALL_START} and {CALL_END}: it was not trained "
                "for them; leave tools out"
            )

    def _refuse_placeholders(self, messages: Sequence[Message]) -> None:
        pad = self._controls.spelled(messages, (self._image_pad, self._video_pad))
        if pad is not None:
            raise BadPrompt(f"the text contains the placeholder {pad}; remove it, and send images as images")

    def _expand(self, text: str, media: Sequence[Placeholder]) -> str:
        """`text` with one pad per vision run; repeating it is done on token ids: the same, and cheap."""
        kinds = ["image" if marker == self._image_pad else "video" for marker in self._marker.findall(text)]
        if kinds != [placeholder.kind for placeholder in media]:
            raise BadPrompt(
                f"the messages have {len(media)} images and videos, the chat template placed {len(kinds)}; "
                "put them into user messages"
            )
        remaining = iter(media)
        return self._marker.sub(lambda _: self._pads(next(remaining)), text)

    def _pads(self, placeholder: Placeholder) -> str:
        if placeholder.kind == "image":
            return self._image_pad
        frame = f"{self._vision_start}{self._video_pad}{self._vision_end}"
        return "".join(f"<{time:.1f} seconds>{frame}" for time in placeholder.timestamps_s)


def refuse_overflow(num_tokens: int, what: str, max_context: int | None) -> None:
    """Raise `ContextOverflow` where `num_tokens` of `what` leave no room in the context."""
    if max_context is not None and num_tokens >= max_context:
        raise ContextOverflow(
            f"the {what} alone take at least {num_tokens} tokens, and the context is {max_context} for prompt and "
            "answer; send less text, fewer images, or a lower max_pixels"
        )
