from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain, cycle, islice, pairwise, repeat
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlmvid.config.schema import SamplingConfig
from vlmvid.errors import DecodeError
from vlmvid.video.sampling import ClipFrames, sample_indices, uniform_indices

ALL = ["uniform", "fps", "tsn_random", "dense", "keyframes", "scene_change", "adaptive"]
WITHOUT_REPEATS = ["uniform", "tsn_random", "keyframes", "scene_change", "adaptive"]
LOOK_AT_THE_PICTURE = ["scene_change", "adaptive"]

counts = st.integers(1, 400)
frame_counts = st.integers(1, 80)
short_policies = st.sampled_from(["repeat_last", "wrap", "error"])
levels = st.sampled_from([0.0, 0.25, 0.99, 1.0, 3.0, 15.0, 40.0, 200.0])


def unwanted() -> np.ndarray:
    raise AssertionError("this policy must not look at the picture")


def clip(
    num_available: int,
    *,
    keys: Sequence[int] = (),
    differences: Sequence[float] | None = None,
    seed: int = 0,
    fps: float = 25.0,
    pts: Sequence[float] | None = None,
    end: float | None = None,
) -> ClipFrames:
    times = np.arange(num_available) / fps if pts is None else np.array(pts, dtype=np.float64)
    is_key = np.zeros(num_available, dtype=bool)
    is_key[list(keys)] = True
    get: Callable[[], np.ndarray] = unwanted
    if differences is not None:
        get = lambda: np.array([0.0, *differences[1:]], dtype=np.float64)  # noqa: E731
    return ClipFrames(
        pts_seconds=times,
        end_seconds=num_available / fps if end is None else end,
        is_key=is_key,
        differences=get,
        seed=seed,
        path="some.mp4",
    )


def config(num_frames: int, policy: str = "uniform", **options: object) -> SamplingConfig:
    return SamplingConfig.model_validate({"num_frames": num_frames, "policy": policy, **options})


@st.composite
def any_clip(draw: st.DrawFn, max_size: int = 120) -> ClipFrames:
    size = draw(st.integers(1, max_size))
    differences = draw(st.lists(levels, min_size=size, max_size=size))
    keys = draw(st.lists(st.integers(0, size - 1), unique=True))
    return clip(size, keys=keys, differences=differences, seed=draw(st.integers(0, 2**128 - 1)))


@st.composite
def any_config(draw: st.DrawFn) -> SamplingConfig:
    policy = draw(st.sampled_from(ALL))
    options: dict[str, object] = {"short_video": draw(short_policies)}
    num_clips = draw(st.integers(1, 5)) if policy in ("uniform", "dense") else 1
    if policy == "dense":
        options["frame_stride"] = draw(st.integers(1, 12))
    if policy == "fps":
        options["sampling_fps"] = draw(st.floats(0.01, 1000))
    return config(draw(st.integers(1, 12)) * num_clips, policy, num_clips=num_clips, **options)


# Every policy


@given(any_clip(), any_config())
def test_exactly_num_frames_indices_inside_the_clip_and_the_same_again(some: ClipFrames, how: SamplingConfig) -> None:
    try:
        indices = sample_indices(some, how)
    except DecodeError as error:
        assert how.short_video == "error" and error.reason_code == "too_short"
        return
    assert indices.shape == (how.num_frames,) and indices.dtype == np.int64
    assert indices.min() >= 0 and indices.max() < len(some)
    np.testing.assert_array_equal(indices, sample_indices(some, how))
    if how.short_video != "wrap":
        for window in indices.reshape(how.num_clips if how.policy == "dense" else 1, -1):
            assert (np.diff(window) >= 0).all()


@given(any_clip(), st.sampled_from(WITHOUT_REPEATS), st.data())
def test_enough_frames_are_taken_once_each_in_order(some: ClipFrames, policy: str, data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, len(some)))
    for short_video in ("repeat_last", "wrap", "error"):
        indices = sample_indices(some, config(num_frames, policy, short_video=short_video))
        assert indices.size == num_frames and (np.diff(indices) >= 1).all()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(WITHOUT_REPEATS))
def test_a_short_clip_is_prolonged_exactly(size: int, missing: int, policy: str) -> None:
    num_frames = size + missing
    repeated = sample_indices(clip(size), config(num_frames, policy))
    assert repeated.tolist() == list(islice(chain(range(size), repeat(size - 1)), num_frames))
    wrapped = sample_indices(clip(size), config(num_frames, policy, short_video="wrap"))
    assert wrapped.tolist() == list(islice(cycle(range(size)), num_frames))
    with pytest.raises(DecodeError, match=rf"some\.mp4.* {size} frames.*num_frames={num_frames}") as caught:
        sample_indices(clip(size), config(num_frames, policy, short_video="error"))
    assert caught.value.reason_code == "too_short"


@pytest.mark.parametrize("policy", ALL)
def test_an_empty_clip_is_too_short_for_every_policy(policy: str) -> None:
    rate = {"sampling_fps": 2.0} if policy == "fps" else {}
    with pytest.raises(DecodeError, match="no frames") as caught:
        sample_indices(clip(0), config(3, policy, **rate))
    assert caught.value.reason_code == "too_short"


@pytest.mark.parametrize("policy", sorted(set(ALL) - set(LOOK_AT_THE_PICTURE)))
def test_only_policies_that_must_look_at_the_picture(policy: str) -> None:
    rate = {"sampling_fps": 2.0} if policy == "fps" else {}
    assert sample_indices(clip(50), config(4, policy, **rate)).size == 4


# uniform


@given(counts, frame_counts, short_policies)
def test_uniform_takes_the_segment_centres(extra: int, num_frames: int, short_video: str) -> None:
    size = num_frames + extra - 1
    indices = sample_indices(clip(size), config(num_frames, short_video=short_video))
    assert indices.tolist() == uniform_indices(size, num_frames).tolist()


@given(st.integers(1, 6), st.integers(1, 10), st.integers(0, 100))
def test_uniform_windows_are_sampled_each_by_itself(num_clips: int, share: int, extra: int) -> None:
    size = num_clips * share + extra
    indices = sample_indices(clip(size), config(num_clips * share, num_clips=num_clips)).tolist()
    edges = [floor(Fraction(i * size, num_clips)) for i in range(num_clips + 1)]
    slow = []
    for low, high in pairwise(edges):
        slow += [low + floor(Fraction((2 * i + 1) * (high - low), 2 * share)) for i in range(share)]
    assert indices == slow
    whole = uniform_indices(size, num_clips * share)
    assert np.abs(indices - whole).max() <= 1
    if size % num_clips == 0:
        assert indices == whole.tolist()


# fps


@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 8), st.integers(0, 10**6), st.booleans())
def test_fps_of_a_constant_rate_is_exact_at_every_tie(
    size: int, fps: int, rate: int, shift_ms: int, rounded: bool
) -> None:
    """Times fall on the very start of a frame at every even ratio; Matroska then rounds them to milliseconds."""
    end = Fraction(size, fps)
    wanted = [floor(Fraction((2 * k + 1) * fps, 2 * rate)) for k in range(ceil(end * rate))]
    wanted = [number for number in wanted if number < size]
    exact = [Fraction(shift_ms, 1000) + Fraction(number, fps) for number in range(size + 1)]
    times = [round(time * 1000) / 1000 if rounded else float(time) for time in exact]
    some = clip(size, pts=times[:-1], end=times[-1])
    if not wanted:
        wanted = [size // 2]
    num_frames = len(wanted)
    how = config(num_frames, "fps", sampling_fps=rate, short_video="error")
    assert sample_indices(some, how).tolist() == wanted


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60), st.fractions(Fraction(1, 20), 30, max_denominator=50),
    frame_counts, short_policies, st.integers(-1000, 1000),
)  # fmt: skip
def test_fps_of_a_variable_rate_takes_the_frame_on_screen(
    steps: list[int], rate: Fraction, num_frames: int, short_video: str, start: int
) -> None:
    shown = [Fraction(start + sum(steps[:i]), 64) for i in range(len(steps) + 1)]
    times = []
    while (time := shown[0] + (len(times) + Fraction(1, 2)) / rate) < shown[-1]:
        times.append(time)
    # Near a change of frames the tolerance decides, which other tests look at.
    assume(all(abs(time - edge) > Fraction(1, 500) for time in times for edge in shown))
    on_screen = [max(i for i, begin in enumerate(shown[:-1]) if begin <= time) for time in times]
    on_screen = on_screen or [len(steps) // 2]
    if len(on_screen) >= num_frames:
        expected = [on_screen[i] for i in uniform_indices(len(on_screen), num_frames)]
    elif short_video == "wrap":
        expected = list(islice(cycle(on_screen), num_frames))
    else:
        expected = list(islice(chain(on_screen, repeat(on_screen[-1])), num_frames))
    some = clip(len(steps), pts=[float(time) for time in shown[:-1]], end=float(shown[-1]))
    how = config(num_frames, "fps", sampling_fps=float(rate), short_video=short_video)
    if len(on_screen) < num_frames and short_video == "error":
        with pytest.raises(DecodeError, match=rf"{len(on_screen)} frames at .*num_frames={num_frames}"):
            sample_indices(some, how)
    else:
        assert sample_indices(some, how).tolist() == expected


def test_fps_known_cases() -> None:
    ten = clip(10, fps=10)
    assert sample_indices(ten, config(2, "fps", sampling_fps=2)).tolist() == [2, 7]
    assert sample_indices(ten, config(5, "fps", sampling_fps=5)).tolist() == [1, 3, 5, 7, 9]
    assert sample_indices(ten, config(4, "fps", sampling_fps=2)).tolist() == [2, 7, 7, 7]
    assert sample_indices(ten, config(5, "fps", sampling_fps=2, short_video="wrap")).tolist() == [2, 7, 2, 7, 2]
    assert sample_indices(ten, config(2, "fps", sampling_fps=5)).tolist() == [3, 7]
    assert sample_indices(ten, config(20, "fps", sampling_fps=20)).tolist() == [i // 2 for i in range(20)]
    assert sample_indices(ten, config(3, "fps", sampling_fps=0.1)).tolist() == [5, 5, 5]
    assert sample_indices(clip(1, fps=25), config(1, "fps", sampling_fps=1)).tolist() == [0]
    # At 0.5 s frame 14 of 29.97 a second is on screen, but frame 15 starts half a millisecond later.
    ntsc = clip(300, fps=30000 / 1001)
    expected = [15, 44, 74, 104, 134, 164, 194, 224, 254, 284]
    assert sample_indices(ntsc, config(10, "fps", sampling_fps=1)).tolist() == expected


def test_fps_of_an_hour_at_the_highest_rate_is_thinned_at_once() -> None:
    indices = sample_indices(clip(90_000), config(4096, "fps", sampling_fps=1000))
    np.testing.assert_allclose(indices, uniform_indices(90_000, 4096), atol=1)


# tsn_random


@given(st.integers(1, 400), st.integers(0, 2**128 - 1), st.data())
def test_tsn_random_takes_one_frame_of_each_segment(size: int, seed: int, data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, size))
    indices = sample_indices(clip(size, seed=seed), config(num_frames, "tsn_random")).tolist()
    for i, index in enumerate(indices):
        assert floor(Fraction(i * size, num_frames)) <= index < floor(Fraction((i + 1) * size, num_frames))


def test_tsn_random_draws_every_frame_of_a_segment_as_often() -> None:
    how = config(3, "tsn_random")
    drawn = np.array([sample_indices(clip(15, seed=seed), how) for seed in range(4000)])
    counted = np.bincount(drawn.ravel(), minlength=15)
    # 800 expected, standard deviation 25: five of them.
    assert np.abs(counted - 800).max() < 127
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.08


def test_tsn_random_is_the_same_on_every_machine_and_another_for_another_seed() -> None:
    how = config(6, "tsn_random")
    assert sample_indices(clip(600, seed=0), how).tolist() == [63, 126, 204, 301, 481, 591]
    assert sample_indices(clip(600, seed=1), how).tolist() != [63, 126, 204, 301, 481, 591]


# dense


@given(counts, st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), short_policies)
def test_dense_windows_are_read_from_the_prolonged_clip(
    size: int, num_clips: int, share: int, stride: int, short_video: str
) -> None:
    some = clip(size)
    how = config(
        num_clips * share, "dense", num_clips=num_clips, frame_stride=stride, short_video=short_video
    )  # fmt: skip
    span = (share - 1) * stride + 1
    if span > size:
        if short_video == "error":
            with pytest.raises(DecodeError, match=rf"{size} frames.*needs {span};"):
                sample_indices(some, how)
            return
        rest = cycle(range(size)) if short_video == "wrap" else repeat(size - 1)
        window = list(islice(chain(range(size), rest), span))[::stride]
        assert sample_indices(some, how).tolist() == window * num_clips
        return
    windows = sample_indices(some, how).reshape(num_clips, share)
    for j, window in enumerate(windows.tolist()):
        best = floor(Fraction((2 * j + 1) * size, 2 * num_clips) - Fraction(span, 2))
        start = min(max(best, 0), size - span)
        assert window == list(range(start, start + span, stride))
    if span * num_clips <= size:
        assert (np.diff(windows.ravel()) >= 1).all()


def test_dense_known_cases() -> None:
    assert sample_indices(clip(10), config(4, "dense")).tolist() == [3, 4, 5, 6]
    assert sample_indices(clip(10), config(4, "dense", frame_stride=2)).tolist() == [1, 3, 5, 7]
    assert sample_indices(clip(12), config(6, "dense", num_clips=2)).tolist() == [1, 2, 3, 7, 8, 9]
    assert sample_indices(clip(5), config(8, "dense", num_clips=2)).tolist() == [0, 1, 2, 3, 1, 2, 3, 4]
    assert sample_indices(clip(5), config(4, "dense", frame_stride=2)).tolist() == [0, 2, 4, 4]
    wrapped = sample_indices(clip(5), config(4, "dense", frame_stride=2, short_video="wrap"))
    assert wrapped.tolist() == [0, 2, 4, 1]


# keyframes


@given(any_clip(), st.data())
def test_keyframes_come_first_and_others_fill_up(some: ClipFrames, data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, len(some)))
    indices = sample_indices(some, config(num_frames, "keyframes")).tolist()
    keys = np.flatnonzero(some.is_key).tolist()
    if len(keys) >= num_frames:
        assert indices == [keys[i] for i in uniform_indices(len(keys), num_frames)]
    else:
        others = [i for i in range(len(some)) if i not in keys]
        assert [i for i in indices if i not in keys] == [
            others[i] for i in uniform_indices(len(others), num_frames - len(keys))
        ]
        assert set(keys) <= set(indices) and len(set(indices)) == num_frames


def test_keyframes_known_cases() -> None:
    some = clip(12, keys=[0, 3, 7, 9])
    assert sample_indices(some, config(4, "keyframes")).tolist() == [0, 3, 7, 9]
    assert sample_indices(some, config(2, "keyframes")).tolist() == [3, 9]
    assert sample_indices(some, config(6, "keyframes")).tolist() == [0, 3, 4, 7, 9, 10]
    assert sample_indices(clip(12), config(4, "keyframes")).tolist() == [1, 4, 7, 10]


# scene_change and adaptive; the maths of differences has its own tests


def with_peaks(size: int, peaks: dict[int, float], level: float = 0.0) -> ClipFrames:
    return clip(size, differences=[peaks.get(i, level) for i in range(size)])


def test_scene_change_known_cases() -> None:
    one_cut = with_peaks(20, {5: 60.0})
    assert sample_indices(one_cut, config(4, "scene_change")).tolist() == [2, 7, 12, 17]
    assert sample_indices(one_cut, config(2, "scene_change")).tolist() == [2, 12]
    assert sample_indices(one_cut, config(1, "scene_change")).tolist() == [12]
    # Uniform sampling would take nothing of the scene of three frames.
    short_scene = with_peaks(40, {4: 50.0, 7: 50.0})
    assert sample_indices(short_scene, config(4, "scene_change")).tolist() == [2, 5, 15, 31]
    still = with_peaks(20, {})
    assert sample_indices(still, config(4, "scene_change")).tolist() == uniform_indices(20, 4).tolist()


def test_adaptive_known_cases() -> None:
    three = with_peaks(60, {7: 50.0, 33: 9.0, 51: 20.0}, level=0.5)
    assert sample_indices(three, config(3, "adaptive")).tolist() == [7, 33, 51]
    assert sample_indices(three, config(2, "adaptive")).tolist() == [7, 51]
    assert sample_indices(three, config(1, "adaptive")).tolist() == [7]
    assert sample_indices(with_peaks(20, {3: 5.0}), config(3, "adaptive")).tolist() == [3, 5, 15]
    still = with_peaks(20, {}, level=0.5)
    assert sample_indices(still, config(4, "adaptive")).tolist() == uniform_indices(20, 4).tolist()


# The options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "fps"}, "needs sampling_fps"),
        ({"policy": "uniform", "sampling_fps": 2.0}, "policy='uniform' does not read sampling_fps=2.0.*policy='fps'"),
        ({"policy": "fps", "sampling_fps": 0.0}, "greater than 0"),
        ({"policy": "fps", "sampling_fps": float("nan")}, "less than or equal to 1000"),
        ({"policy": "fps", "sampling_fps": float("inf")}, "less than or equal to 1000"),
        ({"policy": "uniform", "frame_stride": 2}, "does not read frame_stride=2.*'dense'"),
        ({"policy": "dense", "frame_stride": 0}, "greater than 0"),
        ({"policy": "keyframes", "num_clips": 2}, "does not read num_clips=2.*'uniform' or 'dense'"),
        ({"policy": "dense", "seed": 1}, "does not read seed=1.*'tsn_random'"),
        ({"policy": "dense", "num_clips": 3}, "num_frames=8 must be a multiple of num_clips=3.*num_frames=9"),
        ({"policy": "dense", "num_clips": 16}, "num_frames=8 must be a multiple of num_clips=16.*num_frames=16"),
        ({"policy": "unifrom"}, "'uniform', 'fps'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(8, **options)  # type: ignore[arg-type]


@given(any_config())
def test_a_dumped_config_is_read_back(how: SamplingConfig) -> None:
    assert SamplingConfig.model_validate(how.model_dump(mode="json")) == how
