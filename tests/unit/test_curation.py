"""The rules of curation on hand-made measures: what is kept, by which rule the rest goes, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from vlmvid.config.schema import CurateConfig
from vlmvid.data.curation import Candidate, Verdict, decide
from vlmvid.data.curation_captions import LanguageDetector
from vlmvid.errors import ConfigError
from vlmvid.video.fingerprint import ClipMeasures


def measures(**changes: Any) -> ClipMeasures:
    values: dict[str, Any] = {
        "duration_seconds": 4.0,
        "num_frames": 100,
        "average_fps": 25.0,
        "width": 640,
        "height": 360,
        "motion": 5.0,
        "black_fraction": 0.0,
        "is_textured": True,
        "hashes": np.zeros(8, np.uint64),
    }
    return ClipMeasures(**{**values, **changes})


def candidate(number: int, captions: tuple[str, ...] = (), **changes: Any) -> Candidate:
    return Candidate(video_id=f"v{number}", content=f"c{number}", measures=measures(**changes), captions=captions)


def verdict_of(config: CurateConfig, captions: tuple[str, ...] = (), **changes: Any) -> Verdict:
    return decide([candidate(0, captions, **changes)], config)[0]


@pytest.mark.parametrize(
    ("rule", "limit", "passing", "broken", "words"),
    [
        ("min_duration_seconds", 2, {"duration_seconds": 2.0}, {"duration_seconds": 1.96}, "1.96 is below"),
        ("max_duration_seconds", 2, {"duration_seconds": 2.0}, {"duration_seconds": 2.04}, "2.04 is above"),
        ("min_fps", 24, {"average_fps": 24.0}, {"average_fps": 23.976}, "23.976 is below"),
        ("max_fps", 30, {"average_fps": 29.97}, {"average_fps": 50.0}, "50 is above"),
        ("min_short_side", 360, {"width": 360, "height": 640}, {"width": 358}, "358 x 360 pixels: short side 358 is"),
        ("max_pixels", 230400, {"width": 360, "height": 640}, {"width": 642}, "area 231120 is above max_pixels=230400"),
        ("max_aspect_ratio", 2, {"width": 180}, {"height": 300}, "640 x 300 pixels: long to short side 2.13333 is"),
        ("max_black_fraction", 0.5, {"black_fraction": 0.5}, {"black_fraction": 0.625}, "0.625 is above"),
        ("min_motion", 1.5, {"motion": 1.5}, {"motion": 0.25}, "motion 0.25 is below min_motion=1.5"),
    ],
)
def test_each_limit_filters_what_is_beyond_it(
    rule: str, limit: float, passing: dict[str, Any], broken: dict[str, Any], words: str
) -> None:
    config = CurateConfig.model_validate({rule: limit})
    assert verdict_of(config, **passing).is_kept
    verdict = verdict_of(config, **broken)
    assert (verdict.is_kept, verdict.rule) == (False, rule)
    assert words in verdict.message and f"{rule}={limit}" in verdict.message
    assert verdict_of(CurateConfig(), **broken).is_kept  # off unless it is set


def test_every_rule_has_a_case_above_or_below() -> None:
    others = {"require_caption", "min_caption_words", "max_caption_words", "languages", "language_odds"}
    others |= {"duplicate_distance", "keep_duplicate", "num_frames"}
    case = next(m for m in test_each_limit_filters_what_is_beyond_it.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {row[0] for row in case.args[1]} == set(CurateConfig.model_fields) - others


def test_the_first_broken_rule_in_the_order_of_the_fields_is_named() -> None:
    config = CurateConfig(min_motion=1, max_black_fraction=0.5, min_duration_seconds=2)
    everything_wrong = {"motion": 0.0, "black_fraction": 1.0, "duration_seconds": 1.0}
    assert verdict_of(config, **everything_wrong).rule == "min_duration_seconds"
    del everything_wrong["duration_seconds"]
    assert verdict_of(config, **everything_wrong).rule == "max_black_fraction"


@pytest.mark.parametrize("name", ["duration_seconds", "fps", "caption_words"])
def test_limits_that_no_clip_can_pass_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"min_{name}=5.* is above max_{name}=4"):
        CurateConfig.model_validate({f"min_{name}": 5, f"max_{name}": 4})


class TestCaptions:
    def test_a_clip_loses_the_captions_that_fail_and_goes_only_when_none_is_left(self) -> None:
        config = CurateConfig(min_caption_words=3, max_caption_words=5)
        captions = ("a dog", "a dog runs", "one two three four five six", "a dog runs very fast")
        verdict = verdict_of(config, captions)
        assert verdict.is_kept and verdict.captions == ("a dog runs", "a dog runs very fast")
        assert [(d.caption, d.rule) for d in verdict.dropped] == [
            ("a dog", "min_caption_words"),
            ("one two three four five six", "max_caption_words"),
        ]
        verdict = verdict_of(config, captions[::2])
        assert verdict.rule == "min_caption_words" and verdict.captions == ()
        assert verdict.message == (
            "none of 2 captions passes; the first: 2 words in 'a dog' are below min_caption_words=3"
        )

    def test_a_clip_without_captions_goes_only_by_its_own_rule(self) -> None:
        assert verdict_of(CurateConfig(min_caption_words=3, languages=("en",))).is_kept
        assert verdict_of(CurateConfig(require_caption=True)).rule == "require_caption"
        assert verdict_of(CurateConfig(require_caption=True), ("a dog",)).is_kept

    @pytest.mark.parametrize(
        ("caption", "passes"),
        [
            ("two people dance in a small room", True),
            ("a dog runs", True),
            ("cat", True),  # too short to tell
            ("12345", True),  # no language at all
            ("ein Hund läuft über die Wiese", False),
            ("un chien court dans le parc", False),
            ("мужчина играет на гитаре", False),
            ("一个男人在弹吉他", False),
        ],
    )
    def test_languages(self, caption: str, passes: bool) -> None:
        config = CurateConfig(languages=("en",))
        verdict = decide([candidate(0, (caption,))], config, LanguageDetector(config.languages))[0]
        assert verdict.is_kept == passes
        if not passes:
            assert verdict.rule == "languages" and "above language_odds=20" in verdict.message
        both = CurateConfig(languages=("de", "en"))
        german = decide([candidate(0, (caption,))], both, LanguageDetector(both.languages))[0]
        assert german.is_kept == (passes or "Hund" in caption)

    def test_an_unknown_language_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="curate.languages: 'eng' is no language code .*did you mean 'en'"):
            LanguageDetector(["de", "eng"])


class TestDuplicates:
    def near(self, *bits: int) -> list[Candidate]:
        """Clips whose eight frames differ from those of an all-zero hash in that many bits each."""
        return [candidate(n, hashes=np.full(8, (1 << b) - 1, np.uint64)) for n, b in enumerate(bits)]

    def test_the_first_is_kept_and_named(self) -> None:
        verdicts = decide(self.near(0, 3, 20), CurateConfig(duplicate_distance=4))
        assert [v.rule for v in verdicts] == ["", "duplicate_distance", ""]
        assert verdicts[1].duplicate_of == "v0"
        assert "near duplicate of 'v0', which is kept: 3 of 64 bits per frame differ" in verdicts[1].message

    def test_the_limit_itself_is_a_duplicate(self) -> None:
        assert [v.is_kept for v in decide(self.near(0, 4), CurateConfig(duplicate_distance=4))] == [True, False]
        assert [v.is_kept for v in decide(self.near(0, 4), CurateConfig(duplicate_distance=3.9))] == [True, True]

    def test_the_limit_is_a_mean_over_the_frames(self) -> None:
        one_frame = np.zeros(8, np.uint64)
        one_frame[5] = 0xFFFF
        clips = [candidate(0), candidate(1, hashes=one_frame)]
        assert [v.is_kept for v in decide(clips, CurateConfig(duplicate_distance=2))] == [True, False]
        assert [v.is_kept for v in decide(clips, CurateConfig(duplicate_distance=1.9))] == [True, True]

    def test_a_chain_is_one_group(self) -> None:
        verdicts = decide(self.near(0, 3, 6, 9, 30), CurateConfig(duplicate_distance=3))
        assert [v.is_kept for v in verdicts] == [True, False, False, False, True]
        assert {v.duplicate_of for v in verdicts[1:4]} == {"v0"}

    def test_the_largest_picture_of_equals_the_first(self) -> None:
        sides = [(320, 180), (1280, 720), (1280, 720), (640, 360)]
        clips = [candidate(n, width=w, height=h) for n, (w, h) in enumerate(sides)]
        verdicts = decide(clips, CurateConfig(duplicate_distance=0, keep_duplicate="largest"))
        assert [v.is_kept for v in verdicts] == [False, True, False, False]
        assert {v.duplicate_of for v in verdicts if not v.is_kept} == {"v1"}

    def test_a_clip_that_another_rule_filters_stands_for_no_group(self) -> None:
        clips = [candidate(0, motion=0.0), candidate(1), candidate(2)]
        verdicts = decide(clips, CurateConfig(duplicate_distance=0, min_motion=1))
        assert [v.rule for v in verdicts] == ["min_motion", "", "duplicate_distance"]

    def test_without_texture_only_the_same_content_is_a_duplicate(self) -> None:
        flat = [candidate(n, is_textured=False) for n in range(3)]
        again = Candidate(video_id="again", content="c1", measures=measures(is_textured=False))
        verdicts = decide([*flat, again], CurateConfig(duplicate_distance=8))
        assert [v.is_kept for v in verdicts] == [True, True, True, False]
        assert verdicts[3].message == "the same content and bounds as 'v1', which is kept"

    def test_no_clips_at_all(self) -> None:
        assert decide([], CurateConfig(duplicate_distance=8)) == []
