"""Captions made by rule, and false captions of the synthetic world and of files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.config.augmentation import CaptionAugmentConfig
from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.caption_augment import TEMPLATES, sentences_of, with_more_captions, with_swap, without_words
from vlmvid.data.files import unit_hash
from vlmvid.data.synthetic.dataset import SyntheticDataset, SyntheticOptions
from vlmvid.data.synthetic.gallery import training_clips
from vlmvid.data.synthetic.language import counterfactual_captions, full_caption
from vlmvid.data.synthetic.world import COLOURS, COUNTS, SHAPES, SIZES, Scene, reverse_in_time
from vlmvid.types import Clip
from vlmvid.video.writer import write_mp4

LONG = "A small dog runs over wet grass. It does not bark! Then two men walk by."
KEPT = ("not", "before", "Left", "don't", "3", "two,", "after", "12th")


def clip(*captions: str, split: str = "train", **values: Any) -> Clip:
    return Clip.model_validate({"video_id": "v", "path": "v.mp4", "split": split, "captions": captions, **values})


def more(own: Clip, **options: Any) -> tuple[str, ...]:
    made = with_more_captions(own, CaptionAugmentConfig(**options)).captions
    assert made[: len(own.captions)] == own.captions
    return made[len(own.captions) :]


def test_sentences_of_long_captions_become_captions() -> None:
    sentences = ("A small dog runs over wet grass.", "It does not bark!", "Then two men walk by.")
    assert sentences_of(LONG) == sentences
    assert sorted(more(clip(LONG), num_sentences=9)) == sorted(sentences)
    assert len(more(clip(LONG), num_sentences=2)) == 2
    assert more(clip("a dog runs", "v1.5 of it."), num_sentences=3) == ()


def test_templates_take_the_caption_in() -> None:
    made = more(clip("a dog {runs}."), num_templates=6)
    assert sorted(made) == sorted(template.replace("{}", "a dog {runs}") for template in TEMPLATES)
    assert len(more(clip("a", "b"), num_templates=2)) == 4
    assert CaptionAugmentConfig.model_fields["num_templates"].metadata[1].le == len(TEMPLATES)


words = st.lists(st.one_of(st.sampled_from(KEPT), st.text("abcdef", min_size=1, max_size=4)), max_size=12)


@given(words, st.floats(0.01, 0.99), st.integers(0, 99))
def test_dropped_words_leave_the_rest_in_order_and_what_must_stay(told: list[str], chance: float, seed: int) -> None:
    left = without_words(" ".join(told), chance, unit_hash(seed)).split()
    rest = iter(told)
    assert all(word in rest for word in left)
    assert [word for word in left if word in KEPT] == [word for word in told if word in KEPT]
    assert len(left) >= len(told) - len(told) // 2


@given(words, st.integers(0, 99))
def test_a_swap_moves_two_neighbours_and_none_that_must_stay(told: list[str], seed: int) -> None:
    swapped = with_swap(" ".join(told), unit_hash(seed)).split()
    changed = [place for place, (one, other) in enumerate(zip(told, swapped, strict=True)) if one != other]
    free = [p for p in range(len(told) - 1) if told[p] not in KEPT and told[p + 1] not in KEPT]
    assert changed in ([], *([p, p + 1] for p in free))
    if changed:
        assert swapped[changed[0]] == told[changed[1]] and swapped[changed[1]] == told[changed[0]]
    if free and all(told[p] != told[p + 1] for p in free):
        assert changed


def test_words_are_dropped_as_often_as_asked() -> None:
    caption = " ".join(f"{letter}word" for letter in "abcdefghijklmnopqrstuvwxyz")
    kept = [len(without_words(caption, 0.2, unit_hash(seed)).split()) for seed in range(300)]
    assert sum(kept) / 300 == pytest.approx(0.8 * 26, abs=0.5)


def test_more_captions_follow_seed_and_id_alone() -> None:
    options: dict[str, Any] = {"num_dropped": 3, "num_swapped": 2, "num_templates": 1, "drop_fraction": 0.4}
    own = clip(LONG)
    assert more(own, **options) == more(own.model_copy(update={"path": "w.mp4"}), **options)
    assert more(own, **options) != more(own, seed=1, **options)
    assert more(own, **options) != more(own.model_copy(update={"video_id": "w"}), **options)
    # What one rule makes does not depend on the others.
    assert set(more(own, num_dropped=3, drop_fraction=0.4)) <= set(more(own, **options))


def test_only_training_clips_get_more_and_nothing_is_repeated_or_false() -> None:
    assert more(clip(LONG, split="test"), num_templates=3) == ()
    assert more(clip(), num_templates=3) == ()
    assert more(clip("a dog", "a dog."), num_templates=6) == more(clip("a dog"), num_templates=6)
    assert more(clip("a", "b"), num_dropped=5, num_swapped=5) == ()
    # A swap may hit upon what is false of the clip.
    assert more(clip("dog bites"), num_swapped=1) == ("bites dog",)
    assert more(clip("dog bites", counterfactual_captions=("bites dog",)), num_swapped=1) == ()


# Counterfactual captions.


def false_by_kind(scene: Scene) -> dict[str, str]:
    """Every full caption that is false in one thing, and what that is."""
    found = {}
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("count", COUNTS)):
        for value in values:
            if value != getattr(scene, name):
                found[full_caption(replace(scene, **{name: value}))] = name
    if scene.events[0] in ("left", "right", "up", "down") or len(scene.events) == 2:
        found[full_caption(reverse_in_time(scene))] = "time"
    return found


def test_counterfactuals_are_false_in_one_thing_and_in_every_thing_before_one_comes_twice() -> None:
    first: Counter[str] = Counter()
    for planned in training_clips(0, 200, 20):
        kinds = false_by_kind(planned.scene)
        made = counterfactual_captions(planned.scene, seed=0, index=planned.number, count=13)
        assert full_caption(planned.scene) not in kinds
        assert len(set(made)) == 13 and set(made) <= set(kinds) and len(kinds) in (13, 14)
        number = len(set(kinds.values()))
        assert {kinds[false] for false in made[:number]} == set(kinds.values())
        first[kinds[made[0]]] += 1
        for count in (0, 1, 4):
            few = counterfactual_captions(planned.scene, seed=0, index=planned.number, count=count)
            assert few == made[:count]
    assert set(first) == {"shape", "colour", "size", "count", "time"} and min(first.values()) > 25


def test_counterfactuals_change_nothing_else(tmp_path: Path) -> None:
    options = {"num_train": 30, "num_val": 3, "num_test_bases": 2, "num_temporal_pairs": 3, "caption_noise": 0.3}
    plain, rich = (SyntheticDataset(SyntheticOptions(**options, num_counterfactuals=n)) for n in (0, 5))
    for one, other in zip(plain.clips(tmp_path)[0], rich.clips(tmp_path)[0], strict=True):
        assert one.counterfactual_captions == ()
        assert len(other.counterfactual_captions) == (5 if other.split == "train" else 0)
        assert other.model_copy(update={"counterfactual_captions": ()}) == one
    assert rich.generation_config() == plain.generation_config()
    assert "num_counterfactuals" not in plain.key_config() and rich.key_config()["num_counterfactuals"] == 5


def test_manifests_and_folders_give_false_captions(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", np.zeros((2, 3, 32, 32), np.uint8), fps=2)
    (tmp_path / "a.txt").write_text("a dog\n")
    (tmp_path / "a.counterfactual.txt").write_text("\n a cat \na cow\n")
    folder = open_dataset(DataConfig(name="folder", options={"root": str(tmp_path)}))
    [own], _ = folder.clips(tmp_path)
    assert (own.captions, own.counterfactual_captions) == (("a dog",), ("a cat", "a cow"))
    assert sorted(folder.source_files()) == ["a.counterfactual.txt", "a.mp4", "a.txt"]
    row = {"video_id": "a", "path": "a.mp4", "captions": ["a dog"], "counterfactual_captions": [" ", "a cat"]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    [read], _ = open_dataset(DataConfig(name="manifest", options={"path": str(tmp_path / "m.jsonl")})).clips(tmp_path)
    assert (read.captions, read.counterfactual_captions) == (("a dog",), ("a cat",))
