"""Conversations to tokens, by the chat template of the tokenizer.

The template is rendered around marks instead of the words, so that it cannot change them and they cannot pass for its
own: what looks like a special token in the words of a message is cut into plain tokens. What is given and what is
learnt are cut into tokens apart from each other, so that generation sees the tokens that training saw.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol, get_args, get_type_hints

import numpy as np

from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models.vlm.language import PLACEHOLDER
from vlmvid.models.vlm.layout import ANSWER, PROMPT, VISUAL, TokenSequence
from vlmvid.types import Conversation, Message, Visual

ROLES: tuple[str, ...] = get_args(get_type_hints(Message)["role"])
# Private-use characters stand for no writing, and templates that trim leave them.
_MARK = re.compile("\ue000([0-9]+)\ue001")
# Some templates write today's date, and tokens must not depend on the day. A macro hides the function they call.
_ONE_DAY = "{% macro strftime_now(form) %}26 July 2024{% endmacro %}"


class VisualSize(Protocol):
    """What the text must know of a `VisualFront`."""

    @property
    def num_tokens(self) -> int:
        """Visual tokens a clip."""

    @property
    def num_frames_kept(self) -> int:
        """Frames told apart among them, each with as many tokens; 0 where frames are mixed."""


def encode_conversation(
    tokenizer: Any,
    conversation: Conversation,
    front: VisualSize,
    *,
    max_length: int | None = None,
    for_generation: bool = False,
) -> TokenSequence:
    """One sample: PROMPT, VISUAL and ANSWER tokens of a conversation.

    An answer is learnt up to and including the special token that ends its turn; what the template writes behind
    that is prompt. A clip takes `front.num_tokens` places. Where its `seconds` are given and frames are told apart,
    the time of each frame stands before its tokens, as ``0.5s``; where a connector merges frames, the time of the
    first of them. What follows at the same time, as the tiles of a frame do, shares it. White space around a message
    is left out.

    Args:
        tokenizer: of `vlmvid.models.vlm.language.load_language`.
        max_length: tokens at most, beside the context of the language model.
        for_generation: end where the next answer begins; the conversation ends with a user's message.

    Raises:
        DatasetError: a conversation with an unknown role, without words in a message, with a clip that a user does
            not show, with too few times for a clip's frames, with no answer to learn, or, for generation, that does
            not end with a user's message.
        ConfigError: too many tokens, or a template that does not take the conversation, changes earlier turns, or
            ends a turn with no special token.
    """
    _check(conversation, for_generation)
    frames = _render(tokenizer, conversation, for_generation)
    writer = _Writer(tokenizer, conversation.sample_id, front)
    for frame, message in zip(frames, conversation.messages, strict=False):
        writer.template(frame)
        for part in _stripped(message.content):
            if isinstance(part, Visual):
                writer.visual(part)
            else:
                writer.words(part, ANSWER if message.role == "assistant" else PROMPT)
    writer.template(frames[-1])
    sequence = writer.finished()
    _check_length(sequence, tokenizer, max_length, for_generation=for_generation)
    return sequence


def end_of_turn(tokenizer: Any) -> int:
    """The id of the token that ends an answer: it is learnt last, and generation stops at it.

    Raises ConfigError when the chat template writes no special token there.
    """
    turn = Conversation("a question and its answer", (Message("user", ("?",)), Message("assistant", (".",))))
    behind = _render(tokenizer, turn, for_generation=False)[-1]
    return _encode(tokenizer, behind[: _end_of_answer(tokenizer, behind, turn.sample_id)])[-1]


class _Writer:
    """Tokens in the making; given text waits until something else comes, to be cut into tokens as one."""

    def __init__(self, tokenizer: Any, sample_id: str, front: VisualSize) -> None:
        self._tokenizer = tokenizer
        self._known = _special_tokens(tokenizer, len(tokenizer))
        self._sample_id = sample_id
        self._front = front
        self._ids: list[int] = []
        self._types: list[int] = []
        self._blocks: list[int] = []
        self._media: list[str] = []
        self._waiting = ""
        self._in_answer = False

    def template(self, text: str) -> None:
        """What the chat template writes; its special tokens are meant."""
        if self._in_answer:
            end = _end_of_answer(self._tokenizer, text, self._sample_id)
            self._text(text[:end], ANSWER)
            text = text[end:]
            self._in_answer = False
        self._waiting += text

    def words(self, text: str, kind: int) -> None:
        """Words of a message; a special token's name among them is a word like others."""
        if kind == ANSWER:
            self._flush()
            self._in_answer = True
        position = 0
        for found in self._known.pattern.finditer(text):
            self._plain(text[position : found.start()], kind)
            self._flush()
            self._add(_encode(self._tokenizer, found.group(), split_special_tokens=True), kind)
            position = found.end()
        self._plain(text[position:], kind)

    def visual(self, visual: Visual) -> None:
        """The places of a clip's tokens, and the times of its frames before them."""
        if self._known.placeholder is None:
            raise ConfigError(f"the tokenizer has no token {PLACEHOLDER}; take that of load_language, which adds it")
        block = len(self._media)
        self._media.append(visual.media)
        for time, places in self._times(visual):
            self._waiting += time
            self._flush()
            self._add([self._known.placeholder] * places, VISUAL, block)

    def finished(self) -> TokenSequence:
        """The sample."""
        self._flush()
        return TokenSequence(
            sample_id=self._sample_id,
            ids=np.array(self._ids, np.int64),
            types=np.array(self._types, np.int8),
            blocks=np.array(self._blocks, np.int32),
            media=tuple(self._media),
        )

    def _plain(self, text: str, kind: int) -> None:
        if kind == PROMPT:
            self._waiting += text
        else:
            self._text(text, kind)

    def _flush(self) -> None:
        self._text(self._waiting, PROMPT)
        self._waiting = ""

    def _text(self, text: str, kind: int) -> None:
        if text:
            self._add(_encode(self._tokenizer, text), kind)

    def _add(self, ids: list[int], kind: int, block: int = -1) -> None:
        self._ids += ids
        self._types += [kind] * len(ids)
        self._blocks += [block] * len(ids)

    def _times(self, visual: Visual) -> list[tuple[str, int]]:
        """What is written before visual tokens, and before how many of them."""
        kept, seconds = self._front.num_frames_kept, visual.seconds
        if not kept or not seconds:
            return [("", self._front.num_tokens)]
        if len(seconds) < kept:
            raise DatasetError(
                f"sample {self._sample_id!r}: {visual.media!r} has times for {len(seconds)} frames, and {kept} frames "
                "are told apart; give one for each frame, or none"
            )
        shown = groupby(seconds[step * len(seconds) // kept] for step in range(kept))
        return [(f"{time:.1f}s", len(list(same)) * (self._front.num_tokens // kept)) for time, same in shown]


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    pattern: re.Pattern[str]
    placeholder: int | None


@lru_cache(maxsize=2)
def _special_tokens(tokenizer: Any, num_tokens: int) -> _SpecialTokens:
    # num_tokens is part of the key: a tokenizer may be given further tokens.
    added = tokenizer.added_tokens_decoder.items()
    names = {token.content: number for number, token in added if token.special}
    longest_first = sorted(names, key=len, reverse=True)
    return _SpecialTokens(re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"), names.get(PLACEHOLDER))


def _encode(tokenizer: Any, text: str, *, split_special_tokens: bool = False) -> list[int]:
    ids = tokenizer.encode(
        text,
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        verbose=False,  # what is too long is an error of ours
    )
    return [int(number) for number in ids]


def _end_of_answer(tokenizer: Any, text: str, sample_id: str) -> int:
    found = _special_tokens(tokenizer, len(tokenizer)).pattern.search(text)
    if found is None:
        raise ConfigError(
            f"sample {sample_id!r}: the chat template writes {text!r} behind an answer, with no special token in "
            "it, so that generation would not know where to stop; end the assistant's turns with {{ eos_token }} there"
        )
    return found.end()


def _render(tokenizer: Any, conversation: Conversation, for_generation: bool) -> list[str]:
    """What the template writes before, between and, unless for generation, behind the messages."""
    roles = [message.role for message in conversation.messages]
    if for_generation:
        roles.append("assistant")
    whole = _rendered(tokenizer, roles, conversation.sample_id)
    _, *places = _MARK.split(whole)
    if places[::2] != [str(number) for number in range(len(roles))]:
        raise ConfigError(
            f"sample {conversation.sample_id!r}: the chat template leaves messages out, or writes them twice or in "
            f"another order; of the roles {', '.join(roles)} it wrote the messages {', '.join(places[::2])}; use "
            "another template"
        )
    for number, role in enumerate(roles[:-1]):
        if role == "assistant":
            _check_turn(tokenizer, roles[: number + 1], whole, conversation.sample_id)
    frames = _MARK.split(whole)[::2]
    return frames[:-1] if for_generation else frames


def _check_turn(tokenizer: Any, roles: Sequence[str], whole: str, sample_id: str) -> None:
    turn = _rendered(tokenizer, roles, sample_id)
    last = list(_MARK.finditer(turn))[-1].end()
    if not whole.startswith(turn[:last]):
        raise ConfigError(
            f"sample {sample_id!r}: the chat template rewrites earlier turns: before answer {len(roles)} of the "
            f"messages it writes {_MARK.sub('...', turn[:last])!r} when that is the last one, and otherwise when more "
            "follow, so that training would not show what generation sees; give each question a conversation of its "
            "own, or use another template"
        )


def _rendered(tokenizer: Any, roles: Sequence[str], sample_id: str) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ConfigError("the tokenizer has no chat template; take that of load_language, which adds a plain one")
    marked = [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)]
    try:
        template = _ONE_DAY + tokenizer.get_chat_template()
        return str(tokenizer.apply_chat_template(marked, chat_template=template, tokenize=False))
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(
            f"sample {sample_id!r}: the chat template does not take the roles {', '.join(roles)}: {error}; leave out "
            "or rearrange messages, or use another template"
        ) from error


def _stripped(content: Sequence[str | Visual]) -> list[str | Visual]:
    """The parts of a message without white space at its two ends; neighbouring texts become one."""
    parts: list[str | Visual] = []
    for part in content:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    if isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return parts


def _check(conversation: Conversation, for_generation: bool) -> None:
    name = f"sample {conversation.sample_id!r}"
    for number, message in enumerate(conversation.messages):
        which = f"message {number}, of role {message.role!r},"
        if message.role not in ROLES:
            raise DatasetError(
                f"{name}: message {number} has the unknown role {message.role!r}; use {', '.join(ROLES)}"
            )
        shown = [part.media for part in message.content if isinstance(part, Visual)]
        if shown and message.role != "user":
            raise DatasetError(f"{name}: {which} shows {shown[0]!r}; only a user shows clips, so move it to a user's")
        words = [part for part in message.content if isinstance(part, str)]
        if not any(map(str.strip, words)) and (words or not shown):
            what = "an empty question or prompt" if message.role == "user" else "no words"
            raise DatasetError(f"{name}: {which} has {what}: {list(message.content)!r}; write it, or drop the sample")
    last = conversation.messages[-1].role if conversation.messages else "no message"
    if for_generation and last != "user":
        raise DatasetError(f"{name} is to be answered and ends with {last!r}; end it with a user's message")
    if not for_generation and all(message.role != "assistant" for message in conversation.messages):
        raise DatasetError(
            f"{name} has nothing to learn: no message of its {len(conversation.messages)} is the assistant's, so all "
            "labels would be masked; give it an answer, or drop the sample"
        )


class TooLongError(ConfigError):
    """A sample has more tokens than fit.

    Args:
        num_tokens: of the sample.
        num_visual: of them, visual ones.
        limit: how many fit.
        is_context: whether the limit is the language model's context, not `max_length`.
    """

    def __init__(self, message: str, *, num_tokens: int, num_visual: int, limit: int, is_context: bool) -> None:
        super().__init__(message)
        self.num_tokens = num_tokens
        self.num_visual = num_visual
        self.limit = limit
        self.is_context = is_context


def _check_length(sequence: TokenSequence, tokenizer: Any, max_length: int | None, *, for_generation: bool) -> None:
    context = tokenizer.model_max_length
    if len(sequence) <= min(context, max_length or context):
        return
    visual = int((sequence.types == VISUAL).sum())
    found = f"sample {sequence.sample_id!r} has {len(sequence)} tokens, {visual} of them visual, and "
    is_context = max_length is None or max_length >= context
    if is_context and for_generation:  # who asks has no recipe to change
        found += f"the language model's context holds {context}; shorten the question"
    elif is_context:
        found += (
            f"the language model's context holds {context}; set a visual.pooling or visual.connector that gives "
            "fewer tokens, use a model with a longer context (scratch: max_positions), or drop the sample"
        )
    else:
        found += (
            f"max_length={max_length} fit; raise max_length to {len(sequence)}, set a visual.pooling that gives "
            "fewer tokens, or drop the sample"
        )
    raise TooLongError(
        found,
        num_tokens=len(sequence),
        num_visual=visual,
        limit=min(context, max_length or context),
        is_context=is_context,
    )
