"""Captions by their wording, and synthetic captions in place of raw ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from vlmvid.config.filtering import CaptionMixingConfig, CaptionRulesConfig
from vlmvid.config.load import validation_message
from vlmvid.data.files import unit_hash
from vlmvid.data.filtering import Dropped, Outcome, without_captions
from vlmvid.errors import DatasetError
from vlmvid.types import Clip, TextRecord

BOILERPLATE = (
    r"\bstock\s+(?:video|photo|image|picture|footage|clip|illustration|vector)s?\b",
    r"\broyalty[\s-]+free\b",
    r"\b(?:all\s+rights\s+reserved|copyright\s+\d{4})\b",
    r"(?:©|\(c\))\s*\d{4}",
    r"\bclick\s+(?:here|to|the|for|on)\b",
    r"\b(?:free\s+download|download\s+(?:now|here|free))\b",
    r"\b(?:subscribe|like\s+and\s+share|link\s+in\s+(?:the\s+)?(?:bio|description))\b",
    r"\b(?:image|photo|picture|video)\s+(?:\d+|#\d+|\d+\s+of\s+\d+|may\s+contain)\b",
    r"\b(?:no\s+(?:description|caption|image)\s+available|image\s+not\s+found|untitled)\b",
    r"\b(?:shutterstock|gettyimages|getty\s+images|istock|alamy|dreamstime|depositphotos|pond5)\b",
)
"""What picture agencies, shops and web pages put into captions, as regular expressions; any case."""

_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S|\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|html?|php)\b", re.IGNORECASE)
_FILE_NAME = re.compile(
    r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|mp4|m4v|mov|avi|mkv|webm|wmv|flv|mpe?g)"  # a name with its suffix
    r"|(?:img|dsc[fn]?|dji|gopr|gh\d|mvi|vid|pxl|screenshot|clip)[\s_-]*\d[\d\s_-]*"  # what cameras call their files
    r"|[\d\s_.:-]+"  # a number, a date
    r"|[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")

Broken = tuple[str, float | None, float | None, str]


class SyntheticCaptions(TextRecord):
    """One line of a file of synthetic captions."""

    video_id: str = Field(min_length=1)
    captions: tuple[str, ...] = Field(min_length=1)


def read_synthetic(path: Path) -> dict[str, tuple[str, ...]]:
    """Captions by video_id, blank ones left out.

    Raises DatasetError for a file that is not UTF-8 JSON Lines of `SyntheticCaptions`, an id that occurs twice or has
    only blank captions; the line is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"filter.caption_mixing.synthetic: {path} cannot be read as UTF-8 text: {error}") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = SyntheticCaptions.model_validate_json(line)
        except ValidationError as error:
            raise DatasetError(validation_message(error, SyntheticCaptions, source=f"{path}, line {number}")) from error
        captions = tuple(caption for caption in row.captions if caption.strip())
        if row.video_id in found or not captions:
            why = "occurs twice" if row.video_id in found else "has only blank captions"
            raise DatasetError(
                f"{path}, line {number}: video_id {row.video_id!r} {why}; give each clip one line with text"
            )
        found[row.video_id] = captions
    return found


def unknown_ids(synthetic: Mapping[str, Sequence[str]], known: Sequence[str]) -> list[str]:
    """The video_ids of `synthetic` that the dataset lacks, in order; raises DatasetError when it lacks them all."""
    ids = set(known)
    unknown = [video_id for video_id in synthetic if video_id not in ids]
    if len(unknown) == len(synthetic):
        raise DatasetError(
            f"filter.caption_mixing.synthetic: none of its {len(unknown)} video_ids is one of the dataset's {len(ids)} "
            f"(there {', '.join(map(repr, unknown[:3]))}; here {', '.join(map(repr, list(known)[:3]))}); "
            "write the file with the video_ids of the manifest"
        )
    return unknown


def mix_captions(
    clips: Sequence[Clip], synthetic: Mapping[str, tuple[str, ...]], config: CaptionMixingConfig
) -> Outcome:
    """The clips, a share of them with synthetic captions; the raw captions that gave way count as dropped."""
    draw_of = unit_hash(config.seed)
    kept: list[Clip] = []
    dropped: list[Dropped] = []
    for clip in clips:
        draw = draw_of(clip.video_id)
        taken = clip.video_id in synthetic and (draw < config.ratio or not clip.captions)
        if not taken:
            kept.append(clip)
            continue
        new = synthetic[clip.video_id]
        kept.append(clip.model_copy(update={"captions": new}))
        for caption in clip.captions:
            words = f"{caption!r} gives way to synthetic captions: the draw {draw:.4f} is below ratio={config.ratio:g}"
            dropped.append(
                Dropped(
                    video_id=clip.video_id,
                    caption=caption,
                    rule="caption_mixing",
                    value=draw,
                    threshold=config.ratio,
                    message=words,
                )
            )
    return Outcome(kept, dropped)


def sort_by_wording(clips: Sequence[Clip], config: CaptionRulesConfig) -> Outcome:
    """The clips with the captions that break no rule of `config`."""
    clips_of = Counter(text for clip in clips for text in {_plain(caption) for caption in clip.captions})
    patterns = [("patterns", re.compile(pattern, re.IGNORECASE)) for pattern in config.patterns]
    if config.boilerplate:
        patterns += [("boilerplate", re.compile(pattern, re.IGNORECASE)) for pattern in BOILERPLATE]
    bad = {
        (place, number): Dropped(
            video_id=clip.video_id,
            caption=caption,
            rule=f"captions.{broken[0]}",
            value=broken[1],
            threshold=broken[2],
            message=broken[3],
        )
        for place, clip in enumerate(clips)
        for number, caption in enumerate(clip.captions)
        if (broken := next(_broken_rules(caption, clips_of[_plain(caption)], config, patterns), None)) is not None
    }
    return without_captions(clips, bad)


def alphanumeric_share(text: str) -> float:
    """Letters and digits of any script, with their combining marks left out, among the characters that are no space."""
    signs = [sign for sign in text if not sign.isspace()]
    return sum(sign.isalnum() for sign in signs) / max(1, len(signs))


def repeated_word_share(text: str) -> float:
    """Words, in any case, that occur earlier in the text, among its words; 0 when it has none."""
    words = [word.casefold() for word in _WORD.findall(text)]
    return 1 - len(set(words)) / len(words) if words else 0.0


def is_file_name(text: str) -> bool:
    """Whether the text holds a web address, or is nothing but a file's name, number or date."""
    return bool(_ADDRESS.search(text) or _FILE_NAME.fullmatch(text.strip()))


def _plain(caption: str) -> str:
    return " ".join(caption.casefold().split())


def _broken_rules(
    caption: str, num_clips: int, config: CaptionRulesConfig, patterns: Sequence[tuple[str, re.Pattern[str]]]
) -> Iterator[Broken]:
    """Rule, value, threshold and message of every rule that the caption breaks."""
    for rule, pattern in patterns:
        found = pattern.search(caption)
        if found:
            yield rule, None, None, f"{caption!r} holds {found[0]!r}, which {rule} drops"
    if config.file_names and is_file_name(caption):
        yield "file_names", None, None, f"{caption!r} is a file's name or holds a web address"
    if (limit := config.min_alphanumeric_share) is not None and (share := alphanumeric_share(caption)) < limit:
        words = f"{share:.3g} of {caption!r} is letters and digits, below min_alphanumeric_share={limit:g}"
        yield "min_alphanumeric_share", share, limit, words
    if (limit := config.max_repeated_word_share) is not None and (share := repeated_word_share(caption)) > limit:
        words = f"{share:.3g} of the words of {caption!r} repeat others, above max_repeated_word_share={limit:g}"
        yield "max_repeated_word_share", share, limit, words
    most = config.max_clips_per_caption
    if most is not None and num_clips > most:
        words = f"{caption!r} stands at {num_clips} clips, above max_clips_per_caption={most}"
        yield "max_clips_per_caption", float(num_clips), float(most), words
