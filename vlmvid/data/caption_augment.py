"""Further captions of training clips, made by rule from those they have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vlmvid.config.augmentation import CaptionAugmentConfig
from vlmvid.data.files import unit_hash
from vlmvid.types import Clip

TEMPLATES = (
    "a video of {}",
    "this clip shows {}",
    "in this video: {}",
    "a short film in which one sees {}",
    "{}, on video",
    "footage: {}",
)
# Without one of these, or with it elsewhere, a caption would tell of something else.
_KEPT_WORDS = frozenset(
    "no not none never nobody nothing without neither nor n't "
    "before after then first second last next while until during begins ends "
    "left right up down above below over under forward forwards backward backwards in out into onto off from to "
    "zero one two three four five six seven eight nine ten".split()
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NUMBER = re.compile(r"\d")

Draw = Callable[[str], float]


def with_more_captions(clip: Clip, config: CaptionAugmentConfig) -> Clip:
    """The clip with its captions and behind them what the rules make of each; clips of other splits as they are.

    Decided by the seed, the video_id and the caption's place alone. Nothing is repeated, and nothing is added that
    the clip's counterfactual captions say; so there may be fewer than the counts ask for.
    """
    if clip.split != "train":
        return clip
    draw = unit_hash(config.seed)
    made = [
        text
        for place, caption in enumerate(clip.captions)
        for text in _made_of(caption, config, lambda what, place=place: draw(f"{clip.video_id}:{place}:{what}"))  # type: ignore[misc]
    ]
    known = {*clip.captions, *clip.counterfactual_captions}
    fresh = tuple(text for text in dict.fromkeys(made) if text not in known)
    return clip.model_copy(update={"captions": (*clip.captions, *fresh)})


def sentences_of(caption: str) -> tuple[str, ...]:
    """The sentences of a caption, split behind ``.``, ``!`` and ``?``; one that stands alone is the caption itself."""
    return tuple(part.strip() for part in _SENTENCE_END.split(caption) if part.strip())


def without_words(caption: str, drop_fraction: float, draw: Draw) -> str:
    """The caption without the words that `draw` chooses; at least half of them stay, and all that must."""
    words = caption.split()
    chances = {place: draw(f"word {place}") for place, word in enumerate(words) if not _must_stay(word)}
    least_likely_to_stay = sorted(chances, key=chances.__getitem__)[: len(words) // 2]
    dropped = {place for place in least_likely_to_stay if chances[place] < drop_fraction}
    return " ".join(word for place, word in enumerate(words) if place not in dropped)


def with_swap(caption: str, draw: Draw) -> str:
    """The caption with one pair of neighbouring words changed about; as it is when no pair may be."""
    words = caption.split()
    pairs = [
        place
        for place, (one, other) in enumerate(zip(words, words[1:], strict=False))
        if not _must_stay(one) and not _must_stay(other)
    ]
    if pairs:
        place = pairs[int(draw("pair") * len(pairs))]
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def _made_of(caption: str, config: CaptionAugmentConfig, draw: Draw) -> Iterator[str]:
    sentences = sentences_of(caption)
    if len(sentences) > 1:
        yield from _drawn(sentences, config.num_sentences, "sentence", draw)
    plain = caption.strip().rstrip(".")
    yield from (template.format(plain) for template in _drawn(TEMPLATES, config.num_templates, "template", draw))
    for number in range(config.num_dropped):
        yield without_words(caption, config.drop_fraction, _numbered(draw, f"drop {number}"))
    for number in range(config.num_swapped):
        yield with_swap(caption, _numbered(draw, f"swap {number}"))


def _drawn(texts: tuple[str, ...], count: int, what: str, draw: Draw) -> tuple[str, ...]:
    """`count` of the texts without repeats, in random order."""
    return tuple(sorted(texts, key=lambda text: draw(f"{what} {text}"))[:count])


def _numbered(draw: Draw, name: str) -> Draw:
    return lambda what: draw(f"{name} {what}")


def _must_stay(word: str) -> bool:
    plain = word.lower().strip(".,;:!?\"'()")
    return plain in _KEPT_WORDS or plain.endswith("n't") or _NUMBER.search(plain) is not None
