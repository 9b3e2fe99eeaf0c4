"""Which captions are kept: number of words, and language by odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vlmvid.config.schema import CurateConfig
from vlmvid.errors import ConfigError
from vlmvid.registry import nearest

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedCaption:
    """A caption that broke a rule: the field of `CurateConfig`, and the value against the limit."""

    caption: str
    rule: str
    message: str


class LanguageDetector:
    """How likely another language than the wanted ones is, by py3langid (offline, 139 languages).

    A detector that must name one language is wrong on short captions ("a dog runs"), so a caption
    counts as foreign only when some other language is many times as likely as every wanted one. On the
    captions of Tux Paint's stamps (3.5 words on average) naming the likeliest language drops 44 % of
    the English ones; odds of 20 drop 2 %, and 58 to 100 % of their translations into nine languages.

    Raises ConfigError for a code that the detector does not know.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = tuple(languages)
        self._identifier = _load_identifier()
        known = self._identifier.labels
        for code in self.languages:
            if code not in known:
                raise ConfigError(
                    f"curate.languages: {code!r} is no language code of the detector{nearest(code, known)}; "
                    f"known: {', '.join(sorted(known))}"
                )

    def foreign(self, text: str) -> tuple[str, float]:
        """The likeliest language that is not wanted, and how many times as likely as the wanted ones it is."""
        ranked: list[tuple[str, float]] = self._identifier.rank(text)
        wanted = max(share for code, share in ranked if code in self.languages)
        code, share = next((code, share) for code, share in ranked if code not in self.languages)
        return code, share / max(wanted, 1e-12)


@lru_cache(maxsize=1)
def _load_identifier() -> LanguageIdentifier:
    """Half a second and 100 MB, once per process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def sort_captions(
    captions: Sequence[str], config: CurateConfig, detector: LanguageDetector | None
) -> tuple[tuple[str, ...], tuple[DroppedCaption, ...]]:
    """The captions that pass, and those that do not with their rules, both in order."""
    kept: list[str] = []
    dropped: list[DroppedCaption] = []
    for caption in captions:
        broken = _broken_rule(caption, config, detector)
        if broken is None:
            kept.append(caption)
        else:
            dropped.append(DroppedCaption(caption=caption, rule=broken[0], message=broken[1]))
    return tuple(kept), tuple(dropped)


def _broken_rule(caption: str, config: CurateConfig, detector: LanguageDetector | None) -> tuple[str, str] | None:
    words = len(caption.split())
    if config.min_caption_words is not None and words < config.min_caption_words:
        return (
            "min_caption_words",
            f"{words} words in {caption!r} are below min_caption_words={config.min_caption_words}",
        )
    if config.max_caption_words is not None and words > config.max_caption_words:
        return (
            "max_caption_words",
            f"{words} words in {caption!r} are above max_caption_words={config.max_caption_words}",
        )
    if config.languages and detector is not None:
        code, odds = detector.foreign(caption)
        if odds > config.language_odds:
            wanted = " or ".join(config.languages)
            text = f"{caption!r} is {odds:.3g} times as likely to be {code} as {wanted}, above language_odds"
            return "languages", f"{text}={config.language_odds:g}"
    return None
