"""Filters between encoding and alignment: what each rule leaves, and why it dropped the rest.

Every rule is a pure function of clips (and scores or features) that returns an `Outcome`; the order of the clips
that it is given decides nothing about which are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlmvid.config.filtering import AlignmentScoreConfig
from vlmvid.types import Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A clip, or one caption of a clip, that a rule left out.

    Attributes:
        caption: None when the whole clip is left out.
        rule: field of `FilterConfig`, a dot and its own field where several rules share one.
        value: what was measured; None where nothing was.
        threshold: what it was compared with.
        message: both in words.
        related: the clip that is kept in its place (near duplicates); empty when there is none.
    """

    video_id: str
    caption: str | None = None
    rule: str
    value: float | None = None
    threshold: float | None = None
    message: str
    related: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The clips that a rule leaves, in the order given and with the captions that remain, and what it dropped."""

    kept: list[Clip]
    dropped: list[Dropped]


def without_captions(clips: Sequence[Clip], bad: Mapping[tuple[int, int], Dropped]) -> Outcome:
    """The clips without the captions in `bad`, which is keyed by (place of the clip, place of the caption).

    A clip that loses its last caption is dropped, for the rule of its first one.
    """
    kept: list[Clip] = []
    dropped: list[Dropped] = []
    for place, clip in enumerate(clips):
        lost = [bad[place, number] for number in range(len(clip.captions)) if (place, number) in bad]
        dropped += lost
        if len(lost) < len(clip.captions):
            left = tuple(text for number, text in enumerate(clip.captions) if (place, number) not in bad)
            kept.append(clip.model_copy(update={"captions": left}) if lost else clip)
        elif lost:
            first = lost[0].message
            words = first if len(lost) == 1 else f"none of {len(lost)} captions is left; the first: {first}"
            dropped.append(replace(lost[0], caption=None, message=words))
        else:
            words = "the clip has no caption, so there is nothing to align it with"
            dropped.append(Dropped(video_id=clip.video_id, rule="no_caption", message=words))
    return Outcome(kept, dropped)


def keep_best(clips: Sequence[Clip], scores: Sequence[Sequence[float]], config: AlignmentScoreConfig) -> Outcome:
    """The captions, or clips, with the highest scores.

    Args:
        clips: each with at least one caption.
        scores: per clip, one finite score per caption.
        config: of `keep_fraction` x n, rounded up, are kept; what equals the lowest of them is kept too.
    """
    if config.per == "clip":
        means = [math.fsum(row) / len(row) for row in scores]
        lowest = _lowest_kept(means, config.keep_fraction)
        bad = {
            place: _too_low(clips[place], None, mean, lowest, config)
            for place, mean in enumerate(means)
            if mean < lowest
        }
        kept = [clip for place, clip in enumerate(clips) if place not in bad]
        return Outcome(kept, list(bad.values()))
    lowest = _lowest_kept([score for row in scores for score in row], config.keep_fraction)
    return without_captions(
        clips,
        {
            (place, number): _too_low(clips[place], clips[place].captions[number], score, lowest, config)
            for place, row in enumerate(scores)
            for number, score in enumerate(row)
            if score < lowest
        },
    )


def _lowest_kept(scores: Sequence[float], keep_fraction: float) -> float:
    # The subtraction takes back what rounding added: 0.07 * 100 is a little more than 7.
    number = max(1, math.ceil(keep_fraction * len(scores) - 1e-9))
    return sorted(scores, reverse=True)[number - 1]


def _too_low(clip: Clip, caption: str | None, score: float, lowest: float, config: AlignmentScoreConfig) -> Dropped:
    what = "the clip" if caption is None else repr(caption)
    share = f"the best {config.keep_fraction:g}"
    return Dropped(
        video_id=clip.video_id,
        caption=caption,
        rule="alignment_score",
        value=score,
        threshold=lowest,
        message=f"cosine of {what} is {score:.4g}, below {lowest:.4g}, the last of {share}",
    )
