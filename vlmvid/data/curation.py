"""Which clips are kept: rules on measured values, each off until the recipe sets its limit.

Measuring opens videos, deciding does not: `decide` is a pure function of stored measures, captions
and the rules, so that another limit costs no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vlmvid.config.schema import CurateConfig
from vlmvid.data.curation_captions import DroppedCaption, LanguageDetector, sort_captions
from vlmvid.data.curation_duplicates import Duplicate, find_duplicates
from vlmvid.video.fingerprint import ClipMeasures


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One measured clip; `content` is equal for clips with the same bytes and bounds."""

    video_id: str
    content: str
    measures: ClipMeasures
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one clip.

    Attributes:
        rule: the field of `CurateConfig` that filtered the clip; empty when it is kept.
        message: the measured value and the limit, for the ledger.
        captions: those that no rule dropped; all of them when the clip is filtered by another rule.
        dropped: captions that a kept clip loses, or all of a clip that is filtered for its captions.
        duplicate_of: video_id of the kept clip that this one repeats; empty when it repeats none.
    """

    rule: str = ""
    message: str = ""
    captions: tuple[str, ...] = ()
    dropped: tuple[DroppedCaption, ...] = ()
    duplicate_of: str = ""

    @property
    def is_kept(self) -> bool:
        """True when no rule filtered the clip."""
        return not self.rule


def decide(
    candidates: Sequence[Candidate], config: CurateConfig, detector: LanguageDetector | None = None
) -> list[Verdict]:
    """One verdict per candidate, in their order.

    The first rule that a clip breaks, in the order of the fields of `CurateConfig`, filters it. Near
    duplicates are looked for among the clips that pass all other rules, so that the one that is kept
    is kept for good. `detector` is needed with ``config.languages``.
    """
    verdicts = [_alone(candidate, config, detector) for candidate in candidates]
    if config.duplicate_distance is None:
        return verdicts
    places = [place for place, verdict in enumerate(verdicts) if verdict.is_kept]
    clips = [candidates[place] for place in places]
    found = find_duplicates(
        [clip.measures for clip in clips],
        [clip.content for clip in clips],
        max_distance=config.duplicate_distance,
        keep=config.keep_duplicate,
    )
    for number, duplicate in found.items():
        place = places[number]
        kept = clips[duplicate.of].video_id
        verdicts[place] = replace(
            verdicts[place],
            rule="duplicate_distance",
            message=_duplicate_words(duplicate, kept, config.duplicate_distance),
            duplicate_of=kept,
        )
    return verdicts


def _alone(candidate: Candidate, config: CurateConfig, detector: LanguageDetector | None) -> Verdict:
    """The verdict on one clip by the rules that look at no other."""
    broken = next(_broken_limits(candidate.measures, config), None)
    if broken is not None:
        return Verdict(rule=broken[0], message=broken[1], captions=candidate.captions)
    if not candidate.captions:
        if config.require_caption:
            return Verdict(rule="require_caption", message="the clip has no caption, and require_caption is set")
        return Verdict()
    captions, dropped = sort_captions(candidate.captions, config, detector)
    if captions:
        return Verdict(captions=captions, dropped=dropped)
    first = dropped[0]
    words = (
        first.message if len(dropped) == 1 else f"none of {len(dropped)} captions passes; the first: {first.message}"
    )
    return Verdict(rule=first.rule, message=words, dropped=dropped)


def _broken_limits(measures: ClipMeasures, config: CurateConfig) -> Iterator[tuple[str, str]]:
    """Rule and message of every limit on a measured value that the clip breaks."""
    short, long = sorted((measures.width, measures.height))
    limits = (
        ("min_duration_seconds", "duration_seconds", measures.duration_seconds),
        ("max_duration_seconds", "duration_seconds", measures.duration_seconds),
        ("min_fps", "average_fps", measures.average_fps),
        ("max_fps", "average_fps", measures.average_fps),
        ("min_short_side", f"{measures.width} x {measures.height} pixels: short side", short),
        ("max_pixels", f"{measures.width} x {measures.height} pixels: area", short * long),
        ("max_aspect_ratio", f"{measures.width} x {measures.height} pixels: long to short side", long / short),
        ("max_black_fraction", "black_fraction", measures.black_fraction),
        ("min_motion", "motion", measures.motion),
    )
    for rule, name, value in limits:
        limit = getattr(config, rule)
        if limit is None:
            continue
        if rule.startswith("min_") and value < limit:
            yield rule, f"{name} {value:.6g} is below {rule}={limit:g}"
        if rule.startswith("max_") and value > limit:
            yield rule, f"{name} {value:.6g} is above {rule}={limit:g}"


def _duplicate_words(duplicate: Duplicate, kept: str, limit: float) -> str:
    if duplicate.is_same_content:
        return f"the same content and bounds as {kept!r}, which is kept"
    return (
        f"near duplicate of {kept!r}, which is kept: {duplicate.distance:.6g} of 64 bits per frame differ; clips up to "
        f"duplicate_distance={limit:g} apart, also by way of others, are one"
    )
