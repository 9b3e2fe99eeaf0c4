"""The rules of the filter stage on hand-made clips, features and scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vlmvid.config.filtering import (
    AlignmentScoreConfig,
    CaptionMixingConfig,
    CaptionRulesConfig,
    ClusterBalanceConfig,
    FilterConfig,
    NearDuplicatesConfig,
)
from vlmvid.data.filtering import Dropped, Outcome, keep_best, without_captions
from vlmvid.data.filtering_captions import (
    alphanumeric_share,
    is_file_name,
    mix_captions,
    read_synthetic,
    repeated_word_share,
    sort_by_wording,
    unknown_ids,
)
from vlmvid.data.filtering_features import (
    balance_clusters,
    drop_near_duplicates,
    find_near,
    shares,
    unit_rows,
)
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.types import Clip


def clip(name: str, *captions: str) -> Clip:
    return Clip(video_id=name, path=f"{name}.mp4", captions=captions)


def left(outcome: Outcome) -> dict[str, tuple[str, ...]]:
    return {clip.video_id: clip.captions for clip in outcome.kept}


def why(outcome: Outcome) -> set[tuple[str, str | None, str]]:
    return {(row.video_id, row.caption, row.rule) for row in outcome.dropped}


class TestWithoutCaptions:
    def test_a_clip_goes_with_its_last_caption_and_equal_captions_are_told_apart_by_place(self) -> None:
        clips = [clip("a", "x", "x", "y"), clip("b", "p", "q"), clip("c"), clip("d", "z")]
        lost = [(0, 0), (1, 0), (1, 1)]
        bad = {
            (i, n): Dropped(video_id=clips[i].video_id, caption=clips[i].captions[n], rule="r", message=f"m{i}{n}")
            for i, n in lost
        }
        outcome = without_captions(clips, bad)
        assert left(outcome) == {"a": ("x", "y"), "d": ("z",)}
        whole = {row.video_id: row for row in outcome.dropped if row.caption is None}
        assert {name: row.rule for name, row in whole.items()} == {"b": "r", "c": "no_caption"}
        assert whole["b"].message == "none of 2 captions is left; the first: m10"
        assert len(outcome.dropped) == 5


class TestBestScores:
    CLIPS = [clip("a", "a1", "a2"), clip("b", "b1"), clip("c", "c1", "c2")]
    SCORES = [[0.9, 0.1], [0.5], [0.4, 0.2]]

    def keep(self, fraction: float, per: str = "caption") -> Outcome:
        config = AlignmentScoreConfig.model_validate({"model": "m", "keep_fraction": fraction, "per": per})
        return keep_best(self.CLIPS, self.SCORES, config)

    def test_per_caption(self) -> None:
        assert left(self.keep(1.0)) == {"a": ("a1", "a2"), "b": ("b1",), "c": ("c1", "c2")}
        assert left(self.keep(0.6)) == {"a": ("a1",), "b": ("b1",), "c": ("c1",)}
        some = self.keep(0.4)
        assert left(some) == {"a": ("a1",), "b": ("b1",)}
        rows = {row.caption: row for row in some.dropped}
        assert (rows["c1"].value, rows["c1"].threshold, rows["c1"].rule) == (0.4, 0.5, "alignment_score")
        assert rows["c1"].message == "cosine of 'c1' is 0.4, below 0.5, the last of the best 0.4"
        assert rows[None].video_id == "c"

    def test_per_clip_ranks_by_the_mean_and_keeps_whole_clips(self) -> None:
        assert left(self.keep(0.3, "clip")) == {"a": ("a1", "a2"), "b": ("b1",)}  # both have 0.5
        assert left(self.keep(0.67, "clip")) == left(self.keep(1.0, "clip"))
        assert [row.video_id for row in self.keep(0.5, "clip").dropped] == ["c"]

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 20), st.randoms())
    def test_against_a_count_and_in_any_order(self, values: list[int], twentieths: int, rng: object) -> None:
        config = AlignmentScoreConfig(model="m", keep_fraction=twentieths / 20)
        clips = [clip(f"{i}", f"text {i}") for i in range(len(values))]
        kept = set(left(keep_best(clips, [[float(v)] for v in values], config)))
        wanted = -(-twentieths * len(values) // 20)
        # Kept is whatever has fewer than `wanted` better ones.
        assert kept == {f"{i}" for i, v in enumerate(values) if sum(w > v for w in values) < wanted}
        order = list(range(len(values)))
        rng.shuffle(order)  # type: ignore[attr-defined]
        again = keep_best([clips[i] for i in order], [[float(values[i])] for i in order], config)
        assert set(left(again)) == kept


class TestWording:
    @pytest.mark.parametrize(
        ("rules", "bad", "good"),
        [
            ({"patterns": ["^view of", r"#\w+"]}, ["View of a hill", "sun #sky"], ["a view of a hill", "number # one"]),
            (
                {"boilerplate": True},
                [
                    "Hill at dawn - stock footage",
                    "hill, royalty-free",
                    "© 2019 someone",
                    "click here for more",
                    "Photo 12 of 30",
                    "No description available",
                    "a hill | Shutterstock",
                ],
                ["a man stocks shelves", "a click of the fingers", "a video of 2 dogs"],
            ),
            (
                {"file_names": True},
                [
                    "IMG_2031.JPG",
                    "DSC00123",
                    "20190301_121212.mp4",
                    "2019-03-01",
                    "see https://example.org/x",
                    "www.example.org",
                    "buy at example.com",
                    "0f8fad5b-d9cb-469f-a165-70867728950e",
                    "Screenshot 2020-01-02",
                ],
                ["a dog", "img of a dog 12", "the year 2019", "e.g. a dog", "a clip of 3 dogs"],
            ),
            ({"min_alphanumeric_share": 0.6}, ["*** !!! sun ###", "---"], ["a sun, a hill!", "ein Hügel", "犬が走る"]),
            ({"max_repeated_word_share": 0.5}, ["dog dog Dog dog", "buy now buy now buy"], ["a dog and a cat", "---"]),
        ],
    )  # fmt: skip
    def test_each_rule(self, rules: dict[str, object], bad: list[str], good: list[str]) -> None:
        config = CaptionRulesConfig.model_validate(rules)
        outcome = sort_by_wording([clip("a", *bad, *good)], config)
        assert left(outcome) == {"a": tuple(good)}
        assert why(outcome) == {("a", caption, f"captions.{next(iter(rules))}") for caption in bad}
        assert all(repr(row.caption) in row.message for row in outcome.dropped)

    def test_a_caption_of_many_clips(self) -> None:
        clips = [clip("a", "My video", "my  VIDEO"), clip("b", "my video", "a dog"), clip("c", "my video ")]
        loose = CaptionRulesConfig(max_clips_per_caption=3)
        assert left(sort_by_wording(clips, loose)) == {c.video_id: c.captions for c in clips}
        outcome = sort_by_wording(clips, CaptionRulesConfig(max_clips_per_caption=2))
        assert left(outcome) == {"b": ("a dog",)}
        first = outcome.dropped[0]
        assert (first.value, first.threshold) == (3.0, 2.0)
        assert first.message == "'My video' stands at 3 clips, above max_clips_per_caption=2"

    def test_the_first_broken_rule_is_the_reason(self) -> None:
        config = CaptionRulesConfig(max_clips_per_caption=1, file_names=True, min_alphanumeric_share=0.9)
        outcome = sort_by_wording([clip("a", "IMG_1.jpg"), clip("b", "IMG_1.jpg")], config)
        assert {row.rule for row in outcome.dropped} == {"captions.file_names"}

    def test_shares(self) -> None:
        assert alphanumeric_share("a b!") == pytest.approx(2 / 3)
        assert alphanumeric_share("  ") == 0
        assert repeated_word_share("a dog and a cat and a bird") == pytest.approx(3 / 8)
        assert repeated_word_share("!?") == 0

    @given(st.text(max_size=30))
    def test_any_text_has_shares_between_0_and_1(self, text: str) -> None:
        assert 0 <= alphanumeric_share(text) <= 1
        assert 0 <= repeated_word_share(text) < 1
        is_file_name(text)


class TestMixing:
    CLIPS = [clip(f"v{i}", f"raw {i}") for i in range(400)]
    SYNTHETIC = {f"v{i}": (f"new {i}", f"newer {i}") for i in range(300)}

    def mixed(self, ratio: float, clips: Sequence[Clip] = CLIPS, seed: int = 0) -> Outcome:
        return mix_captions(clips, self.SYNTHETIC, CaptionMixingConfig(synthetic="x", ratio=ratio, seed=seed))

    def test_the_ends(self) -> None:
        assert self.mixed(0.0) == Outcome(self.CLIPS, [])
        every = self.mixed(1.0)
        assert left(every)["v7"] == ("new 7", "newer 7") and left(every)["v300"] == ("raw 300",)
        assert len(every.dropped) == 300 and {row.rule for row in every.dropped} == {"caption_mixing"}

    def test_a_share_that_grows_with_the_ratio_and_depends_on_no_other_clip(self) -> None:
        taken = {ratio: {row.video_id for row in self.mixed(ratio).dropped} for ratio in (0.2, 0.5)}
        assert taken[0.2] < taken[0.5] and 120 <= len(taken[0.5]) <= 180
        alone = self.mixed(0.5, self.CLIPS[::-3])
        assert {row.video_id for row in alone.dropped} == taken[0.5] & {c.video_id for c in self.CLIPS[::-3]}
        assert {row.video_id for row in self.mixed(0.5, seed=1).dropped} != taken[0.5]

    def test_a_clip_without_a_caption_takes_synthetic_ones_whatever_the_ratio(self) -> None:
        outcome = self.mixed(0.0, [clip("v3"), clip("v399")])
        assert left(outcome) == {"v3": ("new 3", "newer 3"), "v399": ()}

    def test_what_gave_way_is_told(self) -> None:
        row = self.mixed(1.0, [clip("v3", "raw")]).dropped[0]
        assert row.caption == "raw" and row.value is not None and row.value < 1 == row.threshold
        assert row.message.startswith("'raw' gives way to synthetic captions: the draw 0.")


class TestSyntheticFile:
    def test_what_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "s.jsonl"
        path.write_text('{"video_id": "a", "captions": ["x", " ", "y"]}\n\n{"video_id": "b", "captions": ["z"]}\n')
        assert read_synthetic(path) == {"a": ("x", "y"), "b": ("z",)}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b'{"video_id": "a", "captions": ["x"]}\n' * 2, "line 2: .*'a' occurs twice"),
            (b'{"video_id": "a", "captions": [" "]}', "line 1: .*only blank captions"),
            (b'{"video_id": "a", "caption": "x"}', "unknown key 'caption'; did you mean 'captions'|missing key"),
            (b'["a", "x"]', "line 1"),
            (b"\n{broken", "line 2"),
            (b'{"video_id": "a", "captions": []}', "captions"),
            (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        ],
    )  # fmt: skip
    def test_what_it_must_not_hold(self, tmp_path: Path, text: bytes, words: str) -> None:
        path = tmp_path / "s.jsonl"
        path.write_bytes(text)
        with pytest.raises(DatasetError, match=words):
            read_synthetic(path)

    def test_ids_that_match_nothing(self) -> None:
        assert unknown_ids({"a": ["x"], "q": ["y"]}, ["a", "b"]) == ["q"]
        with pytest.raises(DatasetError, match="none of its 2 video_ids .* \\(there 'p', 'q'; here 'a', 'b'\\)"):
            unknown_ids({"p": ["x"], "q": ["y"]}, ["a", "b"])


def features(*rows: Sequence[float]) -> np.ndarray:
    """(N, 1, D) float32."""
    return np.array(rows, np.float32)[:, None]


def slow_near(rows: np.ndarray, min_cosine: float) -> set[int]:
    """One by one, against every row kept so far."""
    kept: list[int] = []
    for i in range(len(rows)):
        if all(float(rows[i] @ rows[j]) < min_cosine for j in kept):
            kept.append(i)
    return set(range(len(rows))) - set(kept)


class TestNearDuplicates:
    def test_a_copy_goes_and_the_smaller_id_stays_whatever_the_order(self) -> None:
        clips = [clip("c", "x"), clip("a", "x"), clip("b", "x"), clip("d", "x")]
        values = features([1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1])
        config = NearDuplicatesConfig(min_cosine=0.95)
        outcome = drop_near_duplicates(clips, values, config)
        assert [c.video_id for c in outcome.kept] == ["a", "b", "d"]
        (row,) = outcome.dropped
        assert (row.video_id, row.related, row.threshold, row.rule) == ("c", "a", 0.95, "near_duplicates")
        assert row.value == pytest.approx(1, abs=0.001) and "with 'a', which is kept" in row.message

    def test_played_backwards_is_no_duplicate(self) -> None:
        rng = np.random.default_rng(0)
        one = rng.normal(size=(4, 8))
        values = np.stack([one, one[::-1], one, rng.normal(size=(4, 8))]).astype(np.float32)
        clips = [clip(name, "x") for name in "abcd"]
        outcome = drop_near_duplicates(clips, values, NearDuplicatesConfig(min_cosine=0.9))
        assert [row.video_id for row in outcome.dropped] == ["c"]

    def test_no_chain(self) -> None:
        # Neighbours are 20 degrees apart: each is near the next, the ends are not.
        angles = np.deg2rad([0, 20, 40, 60])
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        assert set(find_near(rows, np.cos(np.deg2rad(25)))) == {1, 3}

    def test_rows_that_equal_the_mean_are_alike_among_themselves(self) -> None:
        assert set(find_near(unit_rows(np.ones((5, 2, 3))), 0.99)) == {1, 2, 3, 4}
        rows = unit_rows(features([0, 1], [0, -1], [0, 0], [0, 0]))
        assert set(find_near(rows, 0.5)) == {3}

    @settings(deadline=None)
    @given(st.integers(0, 60), st.integers(1, 9), st.floats(0.1, 0.99), st.integers(0, 10_000))
    def test_blocks_against_a_loop(self, num: int, block: int, min_cosine: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(num, 3)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = rows @ rows.T
        assume(not np.any(np.abs(cosines - min_cosine) < 1e-5))
        found = find_near(rows, min_cosine, block)
        assert set(found) == slow_near(rows, min_cosine)
        kept = [i for i in range(num) if i not in found]
        for number, (of, cosine) in found.items():
            before = [j for j in kept if j < number]
            assert of in before and cosine == pytest.approx(max(cosines[number, before]), abs=1e-5)
            assert cosine == pytest.approx(float(cosines[number, of]), abs=1e-5)

    def test_in_any_order(self) -> None:
        rng = np.random.default_rng(1)
        values = np.repeat(rng.normal(size=(12, 2, 6)), 3, axis=0).astype(np.float32)
        clips = [clip(f"{i:02d}", "x") for i in range(36)]
        config = NearDuplicatesConfig(min_cosine=0.99)
        kept = {c.video_id for c in drop_near_duplicates(clips, values, config).kept}
        assert kept == {f"{i:02d}" for i in range(0, 36, 3)}
        order = rng.permutation(36)
        again = drop_near_duplicates([clips[i] for i in order], values[order], config)
        assert {c.video_id for c in again.kept} == kept


class TestClusters:
    CENTRES = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
    SIZES = (30, 10, 2)
    CLIPS = [clip(f"{group}-{i:02d}", "x") for group, size in enumerate(SIZES) for i in range(size)]

    def values(self) -> np.ndarray:
        near = np.random.default_rng(0).normal(scale=0.1, size=(sum(self.SIZES), 2, 3))
        return (np.repeat(self.CENTRES, self.SIZES, axis=0)[:, None] + near).astype(np.float32)

    def sizes(self, outcome: Outcome) -> list[int]:
        return [sum(c.video_id.startswith(f"{group}-") for c in outcome.kept) for group in range(3)]

    @pytest.mark.parametrize(
        ("limit", "wanted"),
        [
            ({"max_per_cluster": 5}, [5, 5, 2]),
            ({"max_per_cluster": 1}, [1, 1, 1]),
            ({"keep_fraction": 0.5, "temperature": 1.0}, [15, 5, 1]),
            ({"keep_fraction": 0.5, "temperature": 0.0}, [10, 9, 2]),
            ({"keep_fraction": 0.5}, [12, 7, 2]),
        ],
    )  # fmt: skip
    def test_how_many_of_each_stay(self, limit: dict[str, float], wanted: list[int]) -> None:
        config = ClusterBalanceConfig.model_validate({"num_clusters": 3, **limit})
        outcome = balance_clusters(self.CLIPS, self.values(), config)
        found = self.sizes(outcome)
        assert sum(found) == sum(wanted) and sorted(found, reverse=True) == found
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 1
        assert len(outcome.kept) + len(outcome.dropped) == 42
        assert "of which" in outcome.dropped[0].message

    def test_by_lot_of_the_seed_and_in_any_order(self) -> None:
        config = ClusterBalanceConfig(num_clusters=3, max_per_cluster=5)
        values, order = self.values(), np.random.default_rng(2).permutation(42)
        kept = set(left(balance_clusters(self.CLIPS, values, config)))
        shuffled = balance_clusters([self.CLIPS[i] for i in order], values[order], config)
        assert set(left(shuffled)) == kept
        other = ClusterBalanceConfig(num_clusters=3, max_per_cluster=5, seed=1)
        assert set(left(balance_clusters(self.CLIPS, values, other))) != kept

    def test_more_clusters_than_clips(self) -> None:
        with pytest.raises(ConfigError, match="num_clusters=50 is more than the 42 clips"):
            balance_clusters(self.CLIPS, self.values(), ClusterBalanceConfig(num_clusters=50, max_per_cluster=1))

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
    def test_shares(self, sizes: list[int], data: st.DataObject) -> None:
        assume(sum(sizes))
        target = data.draw(st.integers(1, sum(sizes)))
        temperature = data.draw(st.floats(0, 1))
        kept = shares(np.array(sizes), target, temperature)
        assert kept.sum() == target and (kept >= 0).all() and (kept <= sizes).all()
        # A larger cluster never keeps fewer than a smaller one, but for the clip that rounding gives to the first.
        for (size, mine), (other, theirs) in zip(
            zip(sizes, kept, strict=True), zip(sizes[1:], kept[1:], strict=True), strict=False
        ):
            assert (mine - theirs) * np.sign(size - other) >= -1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "names no rule"),
        ({"captions": {"patterns": ["(a"]}}, "no regular expression"),
        ({"cluster_balance": {"num_clusters": 3}}, "max_per_cluster or keep_fraction"),
        ({"cluster_balance": {"num_clusters": 3, "max_per_cluster": 2, "keep_fraction": 0.5}}, "not both"),
        ({"cluster_balance": {"num_clusters": 3, "max_per_cluster": 2, "temperature": 1.0}}, "does not read"),
        ({"alignment_score": {"model": "m", "keep_fraction": 0}}, "greater than 0"),
        ({"alignment_score": {"model": "m", "keep_fraction": 1.1}}, "less than or equal to 1"),
        ({"near_duplicates": {"min_cosine": 1.5}}, "less than or equal to 1"),
    ],
)  # fmt: skip
def test_configs_that_make_no_sense(section: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FilterConfig.model_validate(section)


def test_the_key_holds_neither_the_models_nor_the_files_address() -> None:
    config = FilterConfig.model_validate(
        {
            "caption_mixing": {"synthetic": "somewhere.jsonl", "ratio": 0.5},
            "alignment_score": {"model": "models:/m@a", "keep_fraction": 0.5},
        }
    )
    text = json.dumps(config.key_config())
    assert "somewhere" not in text and "models:" not in text and '"ratio": 0.5' in text
