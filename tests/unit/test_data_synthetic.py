from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest

from vlmvid.config.schema import DataConfig, SamplingConfig
from vlmvid.data import open_dataset
from vlmvid.data.probes import NEGATIVE_KINDS
from vlmvid.data.synthetic.dataset import SyntheticDataset, SyntheticOptions
from vlmvid.data.synthetic.draw import render
from vlmvid.data.synthetic.gallery import PlannedClip, test_clips, training_clips, validation_clips
from vlmvid.data.synthetic.language import (
    CAPTION_ROLES,
    TIED_ACTION,
    Knobs,
    full_caption,
    object_statement,
    training_captions,
)
from vlmvid.data.synthetic.questions import absent_objects
from vlmvid.data.synthetic.world import (
    COLOURS,
    MOTIONS,
    OBJECTS,
    SHAPES,
    Scene,
    held_out_motions,
    reverse_in_time,
    sample_scene,
    stream,
)
from vlmvid.errors import ConfigError
from vlmvid.types import Clip
from vlmvid.video.sampling import uniform_indices

# pytest would collect the function because of its name.
gallery_of = test_clips
del test_clips

SMALL = SyntheticOptions(num_train=12, num_val=4, num_test_bases=6, num_temporal_pairs=4)


def _train(number: int = 600, pairs: int = 40) -> list[PlannedClip]:
    return list(training_clips(0, number, pairs))


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_test_combinations_never_occur_in_training_or_validation() -> None:
    seen = set().union(*(clip.scene.combinations() for clip in [*_train(), *validation_clips(0, 100)]))
    asked = set().union(*(clip.scene.combinations() for clip in gallery_of(0, 60)))
    assert len(seen) == len(SHAPES) * len(COLOURS) * len(MOTIONS) // 2
    assert len(asked) > 90
    assert not seen & asked


def test_training_shows_every_pair_of_attribute_values() -> None:
    clips = _train()
    for first, second, size in (("shape", "colour", 36), ("shape", "event", 36), ("colour", "event", 36)):
        pairs = set()
        for clip in clips:
            for shape, colour, event in clip.scene.combinations():
                values = {"shape": shape, "colour": colour, "event": event}
                pairs.add((values[first], values[second]))
        assert len(pairs) == size


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gallery_captions_are_unique_and_distractors_differ_in_exactly_one_attribute(seed: int) -> None:
    clips = list(gallery_of(seed, 60))
    assert len({full_caption(clip.scene) for clip in clips}) == len(clips) == 360
    bases = {clip.base_id: clip.scene for clip in clips if not clip.differs_in}
    named = ("shape", "colour", "size", "count", "motion", "group", "objects", "slots", "nuisance")
    by_attribute: Counter[str] = Counter()
    for clip in clips:
        if not clip.differs_in:
            continue
        base = bases[clip.base_id]
        changed = {name for name in named if getattr(base, name) != getattr(clip.scene, name)}
        assert changed == {"motion" if clip.differs_in == "order" else clip.differs_in}
        if clip.differs_in == "order":
            assert clip.scene.events == base.events[::-1]
        by_attribute[clip.differs_in] += 1
    assert by_attribute == {"shape": 60, "colour": 60, "size": 60, "count": 60, "motion": 40, "order": 20}


def test_groups_are_balanced_for_the_tied_action_in_the_gallery() -> None:
    spinning = Counter(clip.scene.group for clip in gallery_of(0, 48) if clip.scene.events == (TIED_ACTION,))
    assert spinning["warm"] == spinning["cool"] > 0


def test_asking_for_more_clips_changes_none_before() -> None:
    assert list(gallery_of(3, 8))[:24] == list(gallery_of(3, 4))
    assert _train(20, 0) == _train(50, 0)[:20]
    assert list(validation_clips(3, 9))[:5] == list(validation_clips(3, 5))
    assert list(gallery_of(3, 4)) != list(gallery_of(4, 4))


def test_an_impossible_number_of_clips_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmvid.data.synthetic.gallery._MAX_TRIES", 1)
    with pytest.raises(ConfigError, match="num_val=5000 .* ask for at most"):
        list(validation_clips(0, 5000))
    with pytest.raises(ConfigError, match="num_test_bases=900"):
        list(gallery_of(0, 900))


@pytest.mark.parametrize("kind", ["order", "direction"])
@pytest.mark.parametrize(("num_frames", "num_sampled"), [(24, 8), (40, 8), (12, 4), (8, 8)])
def test_a_temporal_pair_gives_the_sampler_the_same_decoded_frames_in_another_order(
    tmp_path: Path, kind: str, num_frames: int, num_sampled: int
) -> None:
    options = SyntheticOptions(num_train=1, num_test_bases=2, num_temporal_pairs=0, num_frames=num_frames)
    dataset = SyntheticDataset(options)
    for name in dataset.generated_files():
        dataset.materialise(name, tmp_path)
    pairs: dict[str, list[Clip]] = defaultdict(list)
    for clip in dataset.clips(tmp_path)[0]:
        if clip.attributes["pair_id"] and bool(clip.attributes["order"]) == (kind == "order"):
            pairs[str(clip.attributes["pair_id"])].append(clip)
    assert pairs
    for first, second in pairs.values():
        chosen = []
        for clip in (first, second):
            frames = _decode(tmp_path / clip.path)
            chosen.append([frame.tobytes() for frame in frames[uniform_indices(len(frames), num_sampled)]])
        assert chosen[0] != chosen[1]
        assert (sorted(chosen[0]) == sorted(chosen[1])) is True
        assert first.captions[0] != second.captions[0]


@pytest.mark.parametrize("size", [32, 64, 96])
def test_reversed_scenes_have_the_same_frames(size: int) -> None:
    for i, kind in enumerate(("order", "direction") * 3):
        scene = sample_scene(stream(5, "any", i), kind=kind, test=True)
        frames = render(scene, image_size=size, num_frames=12)
        other = render(reverse_in_time(scene), image_size=size, num_frames=12)
        expected = np.roll(frames, 6, axis=0) if kind == "order" else frames[::-1]
        assert frames.shape == (12, 3, size, size) and frames.dtype == np.uint8
        np.testing.assert_array_equal(other, expected)
        assert not np.array_equal(other, frames)


def _moments(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per frame: centre x, centre y and area of what differs from the scene's still part."""
    frames = render(scene, image_size=64, num_frames=16).astype(int)
    empty = np.median(frames, axis=0)
    moving = np.abs(frames - empty).sum(axis=1) > 60
    y, x = np.mgrid[:64, :64]
    area = moving.sum(axis=(1, 2))
    return (moving * x).sum(axis=(1, 2)) / area, (moving * y).sum(axis=(1, 2)) / area, area


def _scene(**values: object) -> Scene:
    base = Scene("square", "red", "small", 1, ("left",), "warm", ("tree",), (0,))
    return Scene(**{**{name: getattr(base, name) for name in Scene.__slots__}, **values})  # type: ignore[arg-type]


def test_motions_move_as_they_say() -> None:
    for event, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        path = _moments(_scene(events=(event,)))[axis]
        assert sign * (path[-1] - path[0]) > 10, event
    frames = render(_scene(events=("approach",), size="large"), image_size=64, num_frames=16).astype(int)
    red = (frames[:, 0] > 150) & (frames[:, 1] < 80)
    assert red[-1].sum() > 5 * red[0].sum()
    spinning = render(_scene(events=("spin",), shape="circle"), image_size=64, num_frames=16)
    assert len({frame.tobytes() for frame in spinning}) == 16


def test_size_count_colour_and_group_are_seen() -> None:
    def red_area(**values: object) -> int:
        frame = render(_scene(events=("spin",), **values), image_size=64, num_frames=2)[0].astype(int)
        return int(((frame[0] > 150) & (frame[1] < 80)).sum())

    assert red_area(size="large") > 2.5 * red_area(size="small")
    assert red_area(count=3) > 2.5 * red_area(count=1)
    assert red_area(colour="blue") < 5
    warm, cool = (render(_scene(group=group), image_size=64, num_frames=4) for group in ("warm", "cool"))
    changed = (warm != cool).any(axis=1)
    assert changed[:, 0].mean() > 0.9 and not changed[:, 8:40, 8:56].any()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_context_object_is_drawn_in_its_slot_only(name: str) -> None:
    with_it = render(_scene(objects=(name,), slots=(2,)), image_size=64, num_frames=2)[0]
    neighbour = OBJECTS[0 if name != OBJECTS[0] else 1]
    other = render(_scene(objects=(neighbour,), slots=(0,)), image_size=64, num_frames=2)[0]
    changed = (with_it != other).any(axis=0)
    assert changed[:, 33:46].sum() > 40
    assert not changed[:, 18:32].any() and not changed[:45].any()


def test_clips_are_byte_stable_and_a_pure_function_of_seed_and_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        dataset = SyntheticDataset(SMALL if folder == "a" else SMALL.model_copy(update={"num_train": 14}))
        names = sorted(dataset.generated_files(), reverse=folder == "b")
        for name in names:
            dataset.materialise(name, tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mp4"))
    assert len(files) == 12 + 8 + 4 + 36
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_rows_point_at_the_generated_files_and_are_valid(tmp_path: Path) -> None:
    dataset = open_dataset(DataConfig(name="synthetic", options=SMALL.model_dump()))
    clips, defects = dataset.clips(tmp_path)
    assert defects == []
    assert [clip.path for clip in clips] == dataset.generated_files()
    assert Counter(clip.split for clip in clips) == {"train": 20, "val": 4, "test": 36}
    for clip in clips:
        assert Clip.model_validate_json(clip.model_dump_json()) == clip
        assert len(clip.captions) == (9 if clip.split == "train" else 1)
        assert bool(clip.questions) == (clip.split != "train")
    ids = [question.question_id for clip in clips for question in clip.questions]
    assert len(set(ids)) == len(ids)


def test_knobs_at_zero_change_nothing_and_turn_smoothly() -> None:
    clips = _train(300, 0)
    base = [training_captions(c.scene, seed=0, index=c.number, knobs=Knobs()) for c in clips]
    shares = []
    for level in (0.0, 0.3, 0.6, 0.9):
        noisy = [training_captions(c.scene, seed=0, index=c.number, knobs=Knobs(caption_noise=level)) for c in clips]
        changed = [np.array(one) != np.array(two) for one, two in zip(base, noisy, strict=True)]
        shares.append(float(np.mean(changed)))
    # 4 of the 9 captions speak of objects; nothing else may change.
    assert shares == pytest.approx([0.0, 0.3 * 4 / 9, 0.6 * 4 / 9, 0.9 * 4 / 9], abs=0.02)


def test_caption_noise_tells_of_absent_objects_as_if_present() -> None:
    for clip in _train(200, 0):
        true = training_captions(clip.scene, seed=0, index=clip.number, knobs=Knobs())
        told = training_captions(clip.scene, seed=0, index=clip.number, knobs=Knobs(caption_noise=1.0))
        assert told[1:6] == true[1:6]
        for caption in (told[0], *told[6:]):
            named = {name for name in OBJECTS if f"a {name}" in caption}
            assert named - set(clip.scene.objects), caption
        for name in OBJECTS:
            assert (f"a {name}" in true[0]) == (name in clip.scene.objects)
            assert true[8] != object_statement(name, present=False) or name not in clip.scene.objects


def test_group_correlation_ties_the_action_to_one_group_only() -> None:
    for clip in _train(200, 20):
        scene = clip.scene
        true = training_captions(scene, seed=0, index=clip.number, knobs=Knobs())
        told = training_captions(scene, seed=0, index=clip.number, knobs=Knobs(group_correlation=1.0))
        told_spin = "spin" in told[0]
        if scene.is_order or (scene.group == "cool" and scene.events != (TIED_ACTION,)):
            assert told == true
        elif scene.group == "warm":
            assert told_spin
        else:
            assert not told_spin and "spin" in true[0]
        assert told[6:] == true[6:]


def test_knobs_touch_neither_files_nor_other_splits(tmp_path: Path) -> None:
    plain = SyntheticDataset(SMALL)
    turned = SyntheticDataset(SMALL.model_copy(update={"caption_noise": 0.9, "group_correlation": 0.9}))
    assert plain.generation_config() == turned.generation_config()
    assert plain.key_config() != turned.key_config()
    for one, other in zip(plain.clips(tmp_path)[0], turned.clips(tmp_path)[0], strict=True):
        if one.split == "train":
            assert one.model_copy(update={"captions": ()}) == other.model_copy(update={"captions": ()})
        else:
            assert one == other


def test_object_frequency_and_co_occurrence_are_skewed_as_the_negatives_assume() -> None:
    clips = _train(1500, 0)
    frequency = Counter(name for clip in clips for name in clip.scene.objects)
    assert frequency.most_common(2)[0][0] == OBJECTS[0] and frequency[OBJECTS[0]] > 2.5 * frequency[OBJECTS[-1]]
    together = Counter(frozenset(pair) for clip in clips for pair in combinations(clip.scene.objects, 2))

    def lift(first: str, second: str) -> float:
        return together[frozenset((first, second))] * len(clips) / (frequency[first] * frequency[second])

    assert lift("house", "fence") > 2 * lift("house", "rock")
    assert lift("tree", "rock") > 2 * lift("tree", "fence")


def test_the_three_kinds_of_negatives_differ_and_are_absent() -> None:
    first: dict[str, list[str]] = {kind: [] for kind in NEGATIVE_KINDS}
    for clip in gallery_of(0, 40):
        for kind in NEGATIVE_KINDS:
            absent = absent_objects(clip.scene, kind, seed=0, number=clip.number)
            assert sorted(absent) == sorted(set(OBJECTS) - set(clip.scene.objects))
            first[kind].append(absent[0])
    for one, other in combinations(NEGATIVE_KINDS, 2):
        assert np.mean([a != b for a, b in zip(first[one], first[other], strict=True)]) > 0.3
    assert set(first["popular"]) <= set(OBJECTS[:4]) and len(set(first["random"])) == len(OBJECTS)


def test_probes_are_half_yes_per_clip_and_kind(tmp_path: Path) -> None:
    for clip in SyntheticDataset(SMALL).clips(tmp_path)[0]:
        present = set(str(clip.attributes["objects"]).split(","))
        for kind in NEGATIVE_KINDS if clip.split == "test" else ():
            asked = [q for q in clip.questions if q.task == "hallucination" and q.attributes["negatives"] == kind]
            assert Counter(q.answer for q in asked) == {"yes": len(present), "no": len(present)}
            for question in asked:
                assert (question.attributes["object"] in present) == (question.answer == "yes")
                assert question.statements[0] == f"there is a {question.attributes['object']} in the clip"


def test_multiple_choice_questions_hold_the_truth(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for clip in SyntheticDataset(SMALL).clips(tmp_path)[0]:
        for question in clip.questions:
            kinds[question.kind] += 1
            if question.kind == "mcq":
                assert question.answer == str(clip.attributes[str(question.attributes["attribute"])])
                assert len(set(question.statements)) == len(question.choices)
    assert set(kinds) == {"mcq", "yes_no", "open"}


def test_order_is_told_with_different_words_for_the_earlier_event() -> None:
    scene = _scene(events=("spin", "up"))
    assert full_caption(scene) == "after a spin, one small red square rises up, with a tree"
    assert full_caption(reverse_in_time(scene)) == "after a climb, one small red square spins around, with a tree"


def test_held_out_motions_are_closed_under_reversal() -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            assert set(held_out_motions(shape, colour)) in ({"left", "right", "spin"}, {"up", "down", "approach"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_trian": 3}, "num_train"),
        ({"num_frames": 7}, "num_frames"),
        ({"image_size": 33}, "image_size"),
        ({"caption_noise": 1.5}, "caption_noise"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_dataset(DataConfig(name="synthetic", options=options))


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        open_dataset(DataConfig(name="syntetic"))


@pytest.mark.parametrize(("num_frames", "fits"), [(8, True), (24, True), (12, False), (6, False), (5, False)])
def test_a_sampling_that_would_break_temporal_pairs_is_refused(num_frames: int, fits: bool) -> None:
    dataset = SyntheticDataset(SyntheticOptions(num_frames=24))
    if fits:
        dataset.check_sampling(SamplingConfig(num_frames=num_frames))
    else:
        with pytest.raises(ConfigError, match="no odd multiple"):
            dataset.check_sampling(SamplingConfig(num_frames=num_frames))


def test_a_policy_that_would_break_temporal_pairs_is_refused() -> None:
    dataset = SyntheticDataset(SyntheticOptions(num_frames=24))
    for sampling in (
        SamplingConfig(num_frames=8, policy="tsn_random"),
        SamplingConfig(num_frames=8, num_clips=2),
    ):
        with pytest.raises(ConfigError, match="temporal pair"):
            dataset.check_sampling(sampling)


def test_training_captions_can_be_chosen_by_role(tmp_path: Path) -> None:
    every = SyntheticDataset(SyntheticOptions(num_train=3, num_test_bases=1))
    chosen = SyntheticDataset(SyntheticOptions(num_train=3, num_test_bases=1, training_captions=("motion", "full")))
    for whole, some in zip(every.clips(tmp_path)[0], chosen.clips(tmp_path)[0], strict=True):
        told = dict(zip(CAPTION_ROLES, whole.captions, strict=True)) if whole.split == "train" else {}
        assert some.captions == ((told["motion"], told["full"]) if told else whole.captions)
    assert every.generation_config() == chosen.generation_config()
    assert every.key_config() != chosen.key_config()
    assert "training_captions" not in every.key_config()
