"""A vision-language model that answers in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vlmvid.config.base import Config
from vlmvid.config.load import validate
from vlmvid.data.instructions.prompts import as_asked
from vlmvid.errors import ConfigError
from vlmvid.models.vlm.chat import encode_conversation
from vlmvid.models.vlm.generation import GenerationSettings, generate, rank_answers, stream
from vlmvid.models.vlm.model import VisionLanguageModel
from vlmvid.models.vlm.reward import RewardModel, best_of_n
from vlmvid.serving.visual_features import ClipFeatures, Reads
from vlmvid.types import Conversation, Message, Question, Visual, require_utf8

if TYPE_CHECKING:
    from vlmvid.models.vlm.layout import TokenSequence


class Ranking(Config):
    """How questions with choices are put: as they were where the model was evaluated.

    Unknown keys are refused; a folder of before it was kept has the defaults.
    """

    rank_by: Literal["sum", "mean"] = "sum"
    with_choices: bool = False


class Asked(NamedTuple):
    """A question about a clip; `name` tells it from others, and what chance makes of it follows from that."""

    name: str
    clip: str
    question: str


class Speaker:
    """Questions about clips to texts.

    Attributes:
        caption_prompt: the words that ask for a caption.
        ranking: how questions with choices are put.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        caption_prompt: str,
        reward: RewardModel | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        self._model = model.eval()
        self._reward = reward
        self.caption_prompt = caption_prompt
        self.ranking = ranking or Ranking()

    @property
    def reads(self) -> Reads:
        """What it is given of a clip: one feature per time step, or patch tokens."""
        return "tokens" if self._model.visual.config.reads == "patches" else "frames"

    def describe(self) -> dict[str, str]:
        """The language model and what gives it eyes in words, by part."""
        language, visual = self._model.language, self._model.visual.config
        count = sum(weight.numel() for weight in language.parameters())
        described = {
            "language model": f"{language.config.model_type}, {count:,} parameters",
            "connector": f"{visual.connector.kind} over {'patch tokens' if self.reads == 'tokens' else 'time steps'}",
        }
        return described if self._reward is None else {**described, "reward model": "prefers one of several answers"}

    def answers(
        self,
        clips: Mapping[str, ClipFeatures],
        asked: Sequence[Asked],
        settings: GenerationSettings | None = None,
        best_of: int = 1,
    ) -> list[str]:
        """One text per question, in their order; of `best_of` drawn ones the one that the reward model prefers.

        Raises ConfigError for a question that is blank or too long, and for `best_of` without a reward model or
        settings that draw.
        """
        samples = [self._sample(clips, one) for one in asked]
        if best_of != 1:
            if self._reward is None or settings is None:
                raise ConfigError(
                    f"best_of={best_of} needs settings with method='sample', and a model with a reward model; name its "
                    "stage as train_vlm.reward in the recipe"
                )
            reader = _reader(clips)
            found = [best_of_n(self._model, self._reward, one, reader, settings, best_of) for one in samples]
            return [some[0].answer.text for some in found]
        return [one.text for one in generate(self._model, samples, _reader(clips), settings)]

    def stream(
        self, clips: Mapping[str, ClipFeatures], asked: Asked, settings: GenerationSettings | None
    ) -> Iterator[str]:
        """The pieces of one answer as they are generated."""
        return stream(self._model, self._sample(clips, asked), _reader(clips), settings)

    def rank(
        self, clips: Mapping[str, ClipFeatures], asked: Sequence[tuple[str, Question]]
    ) -> list[NDArray[np.float32]]:
        """The log-probability, in nats, of every choice as the answer to each question: float32 (len(choices),).

        Of (clip, question); put as the evaluation of the model put them (`ranking`): per token where that says so.
        Raises ConfigError for a blank question or choice, and for what does not fit the language model's context.
        """
        if not asked:
            return []
        for clip, question in asked:
            _check_choices(clip, question.choices)
        put = [as_asked(question, with_choices=self.ranking.with_choices) for _, question in asked]
        prompts = [
            self._conversation(clips, Asked(question.question_id, clip, text))
            for (clip, question), (text, _) in zip(asked, put, strict=True)
        ]
        choices = [some for _, some in put]
        return rank_answers(self._model, prompts, choices, _reader(clips), per_token=self.ranking.rank_by == "mean")

    def _sample(self, clips: Mapping[str, ClipFeatures], asked: Asked) -> TokenSequence:
        conversation = self._conversation(clips, asked)
        return encode_conversation(self._model.tokenizer, conversation, self._model.visual, for_generation=True)

    def _conversation(self, clips: Mapping[str, ClipFeatures], asked: Asked) -> Conversation:
        if not asked.question.strip():
            raise ConfigError(f"the question about {asked.clip} is blank; ask something")
        try:
            require_utf8(asked.question)
        except ValueError as error:  # no tokenizer takes it
            raise ConfigError(f"the question about {asked.clip!r}: {error}") from error
        seconds = clips[asked.clip].seconds if self._model.visual.config.timestamps else ()
        return Conversation(asked.name, (Message("user", (Visual(asked.clip, seconds), asked.question.strip())),))


def choice_question(name: str, text: str, choices: Sequence[str]) -> Question:
    """A question whose answer nobody knows; of kind ``yes_no`` where the choices are yes and no, in whatever case.

    Raises ConfigError for a blank text, no choices, a blank one, and what UTF-8 cannot hold.
    """
    if not text.strip() or not choices:
        raise ConfigError(
            f"the question about {name} is {text!r} with {len(choices)} choices; ask something, give some"
        )
    _check_choices(name, choices)
    kind = "yes_no" if sorted(choice.lower() for choice in choices) == ["no", "yes"] else "mcq"
    values = {"question_id": "asked", "kind": kind, "question": text, "answer": choices[0], "choices": list(choices)}
    return validate(Question, values, source=f"the question about {name!r}")


def _check_choices(name: str, choices: Sequence[str]) -> None:
    blank = [number for number, choice in enumerate(choices, start=1) if not choice.strip()]
    if blank:
        raise ConfigError(f"the question about {name!r}: choice {blank[0]} is blank; write it, or leave it out")


def _reader(clips: Mapping[str, ClipFeatures]) -> Callable[[Sequence[str]], torch.Tensor]:
    return lambda names: torch.from_numpy(np.stack([clips[name].values for name in names]))
