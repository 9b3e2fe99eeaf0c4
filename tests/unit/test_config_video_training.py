from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vlmvid.config.load import read_recipe_dict, validate
from vlmvid.config.video_training import VideoTrainingConfig

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "encode").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads(path: Path) -> None:
    assert validate(VideoTrainingConfig, read_recipe_dict(path), source=str(path)).name == path.stem


def test_there_is_a_file() -> None:
    assert [path.name for path in FILES] == ["tiny_vit.yaml"]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("vit", {"patch_size": 12}, "image_size=64 must be a multiple of patch_size=12"),
        ("vit", {"num_heads": 5}, "must be a multiple of num_heads=5"),
        ("world", {"num_frames": 16}, "must be an odd multiple of num_frames=8"),
        ("world", {"num_train": 1, "num_temporal_pairs": 1}, "num_videos=600 is more than the 3 training clips"),
        ("video", {"tubelet_size": 3}, "must be a multiple of video.tubelet_size=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(section: str, change: dict[str, Any], message: str) -> None:
    values = read_recipe_dict(FILES[0])
    values[section] = {**values[section], **change}
    with pytest.raises(ValidationError, match=message):
        VideoTrainingConfig.model_validate(values)
