from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vlm_fixtures import CAPTIONS, conversation, tiny_language, tiny_tokenizer
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models.vlm.chat import encode_conversation, end_of_turn
from vlmvid.models.vlm.language import BOX_END, BOX_START, PLACEHOLDER, PLAIN_TEMPLATE, add_missing_tokens
from vlmvid.models.vlm.layout import ANSWER, PROMPT, VISUAL, TokenSequence
from vlmvid.models.vlm.scratch import train_tokenizer
from vlmvid.types import Conversation, Message, Visual

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>{{ '\n' }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3 does: the thoughts of the last answer alone are shown.
FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if loop.last and message['role'] == 'assistant' %}<think></think>\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<|im_start|>{{ role }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] "
    "+ ' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
DATED = (
    "<|im_start|>Today: {{ strftime_now('%d %b %Y') }}<|im_end|>"
    "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
)


@dataclass(frozen=True)
class Front:
    num_tokens: int = 4
    num_frames_kept: int = 0


def tokenizer_with(template: str) -> Any:
    tokenizer = train_tokenizer(CAPTIONS, 300)
    tokenizer.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    add_missing_tokens(tokenizer, "it")
    return tokenizer


def shown(tokenizer: Any, sample: TokenSequence) -> list[tuple[int, str]]:
    """Runs of equal type with their text."""
    runs: list[tuple[int, list[int]]] = []
    for kind, number in zip(sample.types.tolist(), sample.ids.tolist(), strict=True):
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(number)
    return [(kind, tokenizer.decode(ids)) for kind, ids in runs]


def two_turns() -> Conversation:
    return Conversation(
        "two",
        (
            Message("user", (Visual("a"), "what moves?")),
            Message("assistant", ("a red box",)),
            Message("user", ("where?",)),
            Message("assistant", ("to the left",)),
        ),
    )


def test_parts_of_a_sample_from_scratch() -> None:
    tokenizer = tiny_tokenizer()
    sample = encode_conversation(tokenizer, conversation("s", "what moves?", "a red box"), Front())
    assert shown(tokenizer, sample) == [
        (PROMPT, "<user>"),
        (VISUAL, PLACEHOLDER * 4),
        (PROMPT, "what moves?<end><assistant>"),
        (ANSWER, "a red box<end>"),
    ]
    assert sample.media == ("clip",) and sample.sample_id == "s"
    assert sample.blocks.tolist() == [-1, 0, 0, 0, 0, *[-1] * (len(sample) - 5)]
    assert (sample.ids.dtype, sample.types.dtype, sample.blocks.dtype) == (np.int64, np.int8, np.int32)
    assert sample.ids[-1] == tokenizer.eos_token_id == end_of_turn(tokenizer)


def test_chatml_with_several_turns_and_media() -> None:
    tokenizer = tokenizer_with(CHATML)
    sample = encode_conversation(
        tokenizer,
        Conversation(
            "s",
            (
                Message("user", (Visual("a"), "or", Visual("b"), "?")),
                Message("assistant", (" the first\n",)),
                Message("user", ("why?",)),
                Message("assistant", ("it moves",)),
            ),
        ),
        Front(2),
    )
    assert shown(tokenizer, sample) == [
        (PROMPT, "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"),
        (VISUAL, PLACEHOLDER * 2),
        (PROMPT, "or"),
        (VISUAL, PLACEHOLDER * 2),
        (PROMPT, "?<|im_end|>\n<|im_start|>assistant\n"),
        (ANSWER, "the first<|im_end|>"),
        (PROMPT, "\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"),
        (ANSWER, "it moves<|im_end|>"),
        (PROMPT, "\n"),
    ]
    assert sample.media == ("a", "b")
    assert sample.blocks[sample.types == VISUAL].tolist() == [0, 0, 1, 1]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>") != tokenizer.eos_token_id


def test_plain_template() -> None:
    tokenizer = tokenizer_with(PLAIN_TEMPLATE)
    sample = encode_conversation(tokenizer, conversation("s", "what moves?", "a box", media=()), Front())
    assert shown(tokenizer, sample) == [
        (PROMPT, "<s>User:\nwhat moves?\nAssistant:\n"),
        (ANSWER, "a box<end>"),
        (PROMPT, "\n"),
    ]


def test_words_behind_an_answer_and_before_its_end_are_learnt() -> None:
    tokenizer = tokenizer_with(LLAMA2)
    assert shown(tokenizer, encode_conversation(tokenizer, two_turns(), Front(1))) == [
        (PROMPT, "<s>[INST] "),
        (VISUAL, PLACEHOLDER),
        (PROMPT, "what moves? [/INST] "),
        (ANSWER, "a red box <end>"),
        (PROMPT, "<s>[INST] where? [/INST] "),
        (ANSWER, "to the left <end>"),
    ]


@pytest.mark.parametrize("template", [None, CHATML, PLAIN_TEMPLATE, LLAMA2, GEMMA])
def test_generation_sees_what_training_saw(template: str | None) -> None:
    tokenizer = tiny_tokenizer() if template is None else tokenizer_with(template)
    front = Front(6, 3)
    for answered in (
        conversation("s", f"what moves {BOX_START}1,2,3,4{BOX_END}?", "a box"),
        two_turns(),
        Conversation("t", (Message("user", (Visual("a", (0, 1, 2)), "and?")), Message("assistant", ("x",)))),
    ):
        learnt = encode_conversation(tokenizer, answered, front)
        asked = Conversation("s", answered.messages[:-1])
        given_ = encode_conversation(tokenizer, asked, front, for_generation=True)
        start = len(given_)
        assert learnt.ids[:start].tolist() == given_.ids.tolist()
        assert learnt.types[:start].tolist() == given_.types.tolist()
        assert learnt.types[start - 1] == PROMPT and learnt.types[start] == ANSWER
        assert given_.media == learnt.media


@settings(max_examples=60, deadline=None)
@given(
    words=st.text(st.sampled_from("ab <>/|\n.é" + "\ue000\ue0010"), min_size=1, max_size=12).filter(str.strip),
    inserted=st.sampled_from([PLACEHOLDER, "<end>", "<user>", "<pad>", ""]),
)
def test_words_are_never_special_and_never_lost(words: str, inserted: str) -> None:
    tokenizer = tiny_tokenizer()
    text = words + inserted + words
    sample = encode_conversation(tokenizer, conversation("s", text, text), Front(2))
    answer = sample.ids[sample.types == ANSWER].tolist()
    assert tokenizer.decode(answer[:-1]) == text.strip() and answer[-1] == tokenizer.eos_token_id
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = [number for number in sample.ids.tolist() if number in special]
    names = ["<user>", PLACEHOLDER, PLACEHOLDER, "<end>", "<assistant>", "<end>"]
    assert found == tokenizer.convert_tokens_to_ids(names)
    assert (sample.types == VISUAL).sum() == 2


def test_boxes_are_tokens_of_prompt_and_answer() -> None:
    tokenizer = tiny_tokenizer()
    box = f"{BOX_START}10,2{BOX_END}"
    sample = encode_conversation(tokenizer, conversation("s", f"what is in {box}?", f"a cat {box}"), Front())
    start = tokenizer.convert_tokens_to_ids(BOX_START)
    assert sample.types[sample.ids == start].tolist() == [PROMPT, ANSWER]
    answer = sample.ids[sample.types == ANSWER].tolist()
    assert tokenizer.decode(answer, skip_special_tokens=True) == f"a cat {box}"


def test_times_stand_before_the_tokens_of_each_frame() -> None:
    tokenizer = tiny_tokenizer()
    timed = Conversation("s", (Message("user", (Visual("a", (0.0, 0.5, 12.25)), "when?")),))
    sample = encode_conversation(tokenizer, timed, Front(6, 3), for_generation=True)
    pair = PLACEHOLDER * 2
    assert shown(tokenizer, sample) == [
        (PROMPT, "<user>0.0s"),
        (VISUAL, pair),
        (PROMPT, "0.5s"),
        (VISUAL, pair),
        (PROMPT, "12.2s"),
        (VISUAL, pair),
        (PROMPT, "when?<end><assistant>"),
    ]
    assert sample.blocks[sample.types == VISUAL].tolist() == [0] * 6
    mixed = encode_conversation(tokenizer, timed, Front(6, 0), for_generation=True)
    assert "s" not in shown(tokenizer, mixed)[0][1].removeprefix("<user>")


def test_merged_frames_have_the_time_of_the_first() -> None:
    tokenizer = tiny_tokenizer()
    timed = Conversation("s", (Message("user", (Visual("a", (0, 1, 2, 3)), "when?")),))
    sample = encode_conversation(tokenizer, timed, Front(2, 2), for_generation=True)
    assert [text for kind, text in shown(tokenizer, sample) if kind == PROMPT][:2] == ["<user>0.0s", "2.0s"]
    with pytest.raises(DatasetError, match=r"sample 's': 'a' has times for 4 frames, and 5 frames are told apart"):
        encode_conversation(tokenizer, timed, Front(5, 5), for_generation=True)


def test_tiles_of_a_frame_share_its_time() -> None:
    tokenizer = tiny_tokenizer()
    timed = Conversation("s", (Message("user", (Visual("a", (0.0, 0.0, 0.0, 0.52, 0.52, 0.52)), "when?")),))
    sample = encode_conversation(tokenizer, timed, Front(12, 6), for_generation=True)
    six = PLACEHOLDER * 6
    assert shown(tokenizer, sample)[:4] == [(PROMPT, "<user>0.0s"), (VISUAL, six), (PROMPT, "0.5s"), (VISUAL, six)]
    merged = encode_conversation(tokenizer, timed, Front(4, 4), for_generation=True)  # frames 0, 0, 1, 1
    assert shown(tokenizer, merged)[:4] == [
        (PROMPT, "<user>0.0s"),
        (VISUAL, PLACEHOLDER * 2),
        (PROMPT, "0.5s"),
        (VISUAL, PLACEHOLDER * 2),
    ]


def test_date_of_a_template_is_fixed() -> None:
    tokenizer = tokenizer_with(DATED)
    sample = encode_conversation(tokenizer, conversation("s", "q", "a", media=()), Front())
    assert shown(tokenizer, sample)[0][1].startswith("<|im_start|>Today: 26 July 2024<|im_end|>")


def test_the_assistant_alone_may_speak() -> None:
    tokenizer = tiny_tokenizer()
    sample = encode_conversation(tokenizer, Conversation("s", (Message("assistant", ("a red box",)),)), Front())
    assert shown(tokenizer, sample) == [(PROMPT, "<assistant>"), (ANSWER, "a red box<end>")]


def test_a_clip_alone_may_be_the_question() -> None:
    tokenizer = tiny_tokenizer()
    only = Conversation("s", (Message("user", (Visual("a"),)), Message("assistant", ("a box",))))
    assert shown(tokenizer, encode_conversation(tokenizer, only, Front(1)))[1] == (VISUAL, PLACEHOLDER)


USER, SAID = Message("user", ("q",)), Message("assistant", ("a",))


@pytest.mark.parametrize(
    ("messages", "generation", "message"),
    [
        ((USER,), False, r"sample 'x' has nothing to learn: .*all labels would be masked"),
        ((), False, "nothing to learn"),
        ((), True, "ends with 'no message'; end it with a user's message"),
        ((USER, SAID), True, "ends with 'assistant'; end it with a user's message"),
        ((Message("user", (" \n",)), SAID), False, r"message 0, of role 'user', has an empty question .* \[' \\n'\]"),
        ((Message("user", (Visual("v"), "")), SAID), False, "has an empty question or prompt"),
        ((Message("user", ()), SAID), False, "has an empty question or prompt"),
        ((USER, Message("assistant", ("",))), False, "message 1, of role 'assistant', has no words"),
        ((Message("bot", ("q",)), SAID), False, "unknown role 'bot'; use system, user, assistant"),  # type: ignore[arg-type]
        ((USER, Message("assistant", ("a", Visual("v")))), False, "'assistant', shows 'v'; only a user shows clips"),
        ((Message("system", (Visual("v"),)), USER), True, "'system', shows 'v'; only a user shows clips"),
    ],
)
def test_bad_conversations(messages: tuple[Message, ...], generation: bool, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        encode_conversation(tiny_tokenizer(), Conversation("x", messages), Front(), for_generation=generation)


def test_too_long_for_max_length_or_context() -> None:
    tokenizer = tiny_tokenizer()
    asked = conversation("long one", "what moves?", "a box")
    length = len(encode_conversation(tokenizer, asked, Front(20)))
    encode_conversation(tokenizer, asked, Front(20), max_length=length)
    expected = rf"'long one' has {length} tokens, 20 of them visual, and max_length={length - 1} fit; raise max_length"
    with pytest.raises(ConfigError, match=expected):
        encode_conversation(tokenizer, asked, Front(20), max_length=length - 1)
    for limit in (None, 4000):
        with pytest.raises(ConfigError, match=r"200 of them visual, and the language model's context holds 128; set"):
            encode_conversation(tokenizer, asked, Front(200), max_length=limit)


def test_who_asks_too_much_is_told_to_ask_less(caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_propagation()
    asked = Conversation("v", (Message("user", (Visual("v"), "what moves? " * 100)),))
    with pytest.raises(ConfigError, match="context holds 128; shorten the question$"):
        encode_conversation(tiny_tokenizer(), asked, Front(), for_generation=True)
    transformers_logging.disable_propagation()
    assert not caplog.records  # transformers warns of long texts unless it is told not to


def test_template_that_rewrites_earlier_turns() -> None:
    tokenizer = tokenizer_with(FORGETFUL)
    single = encode_conversation(tokenizer, conversation("s", "q", "a", media=()), Front())
    assert shown(tokenizer, single)[0] == (
        PROMPT,
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think></think>\n",
    )
    with pytest.raises(ConfigError, match="sample 'two': the chat template rewrites earlier turns: before answer 2"):
        encode_conversation(tokenizer, two_turns(), Front())
    asked = Conversation("two", two_turns().messages[:3])
    with pytest.raises(ConfigError, match="rewrites earlier turns"):
        encode_conversation(tokenizer, asked, Front(), for_generation=True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GEMMA, "sample 's': the chat template does not take the roles system, .*: System role not supported"),
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            r"writes '\\n' behind an answer, with no special token",
        ),
        ("{{ messages[1].content }}<|im_end|>", "leaves messages out, .* it wrote the messages 1; use another"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>", "does not take the roles"),
        (None, "has no chat template; take that of load_language"),
    ],
)
def test_bad_templates(template: str | None, message: str) -> None:
    tokenizer = tokenizer_with(CHATML)
    tokenizer.chat_template = template
    system = Conversation("s", (Message("system", ("be brief",)), USER, SAID))
    with pytest.raises(ConfigError, match=message):
        encode_conversation(tokenizer, system, Front())


def test_tokenizer_without_placeholder() -> None:
    bare = train_tokenizer(CAPTIONS, 300)
    encode_conversation(bare, conversation("s", "q", "a", media=()), Front())
    with pytest.raises(ConfigError, match="has no token <visual>; take that of load_language"):
        encode_conversation(bare, conversation("s", "q", "a"), Front())


def test_tokens_added_later_are_known() -> None:
    _, tokenizer = tiny_language()
    asked = conversation("s", "<new>", "a", media=())
    before = encode_conversation(tokenizer, asked, Front())
    tokenizer.add_special_tokens({"extra_special_tokens": ["<new>"]})
    assert encode_conversation(tokenizer, asked, Front()).ids.tolist() == before.ids.tolist()
