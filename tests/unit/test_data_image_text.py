from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.image_text import MOVES, ImageTextDataset, ImageTextOptions, camera_move, join_captions, read_captions
from vlmvid.errors import ConfigError, DatasetError, DecodeError


def _picture(path: Path, caption: str | None, *, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def _open(root: Path, **options: Any) -> ImageTextDataset:
    values = {"root": str(root), "num_test": 0, "image_size": 32, "num_frames": 4, **options}
    dataset = open_dataset(DataConfig(name="image_text", options=values))
    assert isinstance(dataset, ImageTextDataset)
    return dataset


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_pictures_become_clips_with_relative_paths(tmp_path: Path) -> None:
    _picture(tmp_path / "in/animals/cat.png", "A cat.\nde.utf8=Eine Katze.\nfr.utf8=Un chat.", mode="RGBA")
    _picture(tmp_path / "in/town/car.jpg", "A car.")
    _picture(tmp_path / "in/symbols/one.png", "One.")
    dataset = _open(tmp_path / "in", exclude=["symbols/*"], languages=["en", "de"])
    clips, defects = dataset.clips(tmp_path / "out")
    assert defects == []
    assert [(c.video_id, c.path, c.captions) for c in clips] == [
        ("animals/cat", "animals/cat.mp4", ("A cat.", "Eine Katze.")),
        ("town/car.jpg", "town/car.jpg.mp4", ("A car.",)),
    ]
    assert clips[0].attributes == {"category": "animals", "folder": "animals"}
    assert dataset.generated_files() == [clip.path for clip in clips]
    assert set(dataset.source_files()) == {"animals/cat.png", "animals/cat.txt", "town/car.jpg", "town/car.txt"}
    for name in dataset.generated_files():
        dataset.materialise(name, tmp_path / "out")
        frames = _decode(tmp_path / "out" / name)
        assert frames.shape == (4, 32, 32, 3)
        assert not np.array_equal(frames[0], frames[-1])


def test_files_are_byte_stable_and_transparent_parts_are_plain(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15] = (200, 0, 0, 255)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "in/a.png")
    (tmp_path / "in/a.txt").write_text("a red square")
    for folder in ("one", "two"):
        _open(tmp_path / "in").materialise("a.mp4", tmp_path / folder)
    assert (tmp_path / "one/a.mp4").read_bytes() == (tmp_path / "two/a.mp4").read_bytes()
    assert _decode(tmp_path / "one/a.mp4")[:, 0, 0].min() > 240


def test_broken_pictures_and_captions_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    _picture(tmp_path / "good.png", "good")
    _picture(tmp_path / "no_caption.png", None)
    _picture(tmp_path / "empty.png", "  \n")
    _picture(tmp_path / "only_german.png", "de.utf8=Nur deutsch")
    _picture(tmp_path / "latin.png", None)
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for name, content in (("header.png", b"\x89PNG\r\n\x1a\nbroken"), ("zero.jpg", b""), ("text.jpg", b"no picture")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}")
    _picture(tmp_path / "cut.png", "cut", size=(200, 200))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    dataset = _open(tmp_path)
    clips, defects = dataset.clips(tmp_path)
    assert {defect.video_id: defect.reason_code for defect in defects} == {
        "no_caption": "missing_caption",
        "empty": "empty_caption",
        "only_german": "empty_caption",
        "latin": "broken_caption",
    }
    assert "good.mp4" in [clip.path for clip in clips]
    for name in ("header.mp4", "zero.jpg.mp4", "text.jpg.mp4", "cut.mp4"):
        with pytest.raises(DecodeError, match="cannot be read as an image") as caught:
            dataset.materialise(name, tmp_path / "out")
        assert caught.value.reason_code == "broken_image"
    assert not (tmp_path / "out").exists()


def test_no_caption_is_in_two_splits_and_test_captions_are_unique(tmp_path: Path) -> None:
    for number in range(30):
        # Two pictures share each caption, but for case and spaces.
        _picture(tmp_path / f"{number}.png", f"Thing  {number // 2}" if number % 2 else f"thing {number // 2} ")
    clips, _ = _open(tmp_path, num_test=5, num_val=3).clips(tmp_path)
    by_split: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for clip in clips:
        by_split[clip.split].append(" ".join(clip.captions[0].lower().split()))
    assert Counter({split: len(texts) for split, texts in by_split.items()}) == {"train": 14, "val": 3, "test": 5}
    assert len(set(by_split["test"])) == 5 and len(set(by_split["val"])) == 3
    assert not set(by_split["test"]) & (set(by_split["train"]) | set(by_split["val"]))
    other = _open(tmp_path, num_test=5, num_val=3, seed=1).clips(tmp_path)[0]
    assert {c.video_id for c in other if c.split == "test"} != {c.video_id for c in clips if c.split == "test"}


def test_pictures_that_share_any_caption_stay_in_one_split(tmp_path: Path) -> None:
    for number in range(12):
        _picture(tmp_path / f"{number}.png", f"thing {number}\nseen {number // 3}")
    clips, _ = _open(tmp_path, num_test=2).clips(tmp_path)
    test = {caption for clip in clips if clip.split == "test" for caption in clip.captions}
    train = {caption for clip in clips if clip.split == "train" for caption in clip.captions}
    assert len([clip for clip in clips if clip.split == "test"]) == 2 and not test & train


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3).map(tuple), max_size=8))
def test_join_captions_is_the_transitive_closure(captions: list[tuple[str, ...]]) -> None:
    group_of = join_captions(captions)
    closure = {name: {name} for texts in captions for name in texts}
    for _ in closure:
        for texts in captions:
            union = set().union(*(closure[name] for name in texts))
            for name in union:
                closure[name] = union | closure[name]
    assert group_of == {name: min(members) for name, members in closure.items()}


def test_too_many_test_captions_and_an_empty_folder_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no PNG or JPEG"):
        _open(tmp_path)
    _picture(tmp_path / "a.png", "a")
    with pytest.raises(ConfigError, match="num_test=1 .* 1 distinct captions"):
        _open(tmp_path, num_test=1).clips(tmp_path)


def test_pictures_whose_ids_meet_are_refused(tmp_path: Path) -> None:
    _picture(tmp_path / "a.jpg", "one")
    _picture(tmp_path / "a.jpg.png", "two")
    (tmp_path / "a.jpg.txt").write_text("two")
    with pytest.raises(DatasetError, match="duplicate video_id 'a.jpg'"):
        _open(tmp_path).clips(tmp_path)


@pytest.mark.parametrize(
    ("text", "languages", "expected"),
    [
        ("A pawprint.\nde.utf8=Ein Abdruck.\npt_BR.utf8=Uma pegada.", ("en",), ("A pawprint.",)),
        ("A pawprint.\nde.utf8=Ein Abdruck.", ("de", "en"), ("Ein Abdruck.", "A pawprint.")),
        ("A pawprint.\nde.utf8=Ein Abdruck.", ("fr",), ()),
        ("one\n\ntwo\none", ("en",), ("one", "two")),
        ("x=1 is an equation", ("en",), ("x=1 is an equation",)),
        ("same\nde.utf8=same", ("en", "de"), ("same",)),
        ("ca@valencia.utf8=Hola\nHello", ("ca@valencia",), ("Hola",)),
        ("", ("en",), ()),
    ],
)
def test_read_captions(text: str, languages: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert read_captions(text, languages) == expected


def test_camera_moves_show_what_they_say() -> None:
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[50:70, 50:70] = 255
    options = ImageTextOptions(root=".", image_size=64, num_frames=6)
    y, x = np.mgrid[:64, :64]
    track = {}
    for move in MOVES:
        frames = camera_move(Image.fromarray(pixels), move, options)
        assert frames.shape == (6, 3, 64, 64) and frames.dtype == np.uint8
        bright = frames[:, 0] > 128
        bright[:, :8] = bright[:, -8:] = bright[:, :, :8] = bright[:, :, -8:] = False
        area = bright.sum(axis=(1, 2))
        track[move] = ((bright * x).sum(axis=(1, 2)) / area, (bright * y).sum(axis=(1, 2)) / area, area)
    # A camera that pans right sees the picture go left.
    assert track["pan_right"][0][-1] < track["pan_right"][0][0] - 4
    assert track["pan_left"][0][-1] > track["pan_left"][0][0] + 4
    assert track["pan_down"][1][-1] < track["pan_down"][1][0] - 4
    assert track["pan_up"][1][-1] > track["pan_up"][1][0] + 4
    assert track["zoom_in"][2][-1] > 1.4 * track["zoom_in"][2][0]
    assert track["zoom_out"][2][-1] < track["zoom_out"][2][0] / 1.4
    turned = camera_move(Image.fromarray(pixels), "rotate", options)
    assert not np.array_equal(turned[0], turned[-1])
