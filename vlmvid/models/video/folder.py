"""Where a saved video encoder lies. Light: never imports torch."""

from __future__ import annotations

from pathlib import Path

from vlmvid.errors import ConfigError

DESCRIPTION, WEIGHTS = "video.json", "video.safetensors"


def video_files(name: str, *, pretrained: bool) -> list[Path]:
    """The files that decide ``video:NAME``: the description and, where they are wanted, the weights.

    Raises ConfigError when one is not there.
    """
    folder = Path(name).expanduser()
    paths = [folder / DESCRIPTION, *([folder / WEIGHTS] if pretrained else [])]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{folder} is not the folder of a video encoder: {' and '.join(missing)} missing; expected what "
            "save_video_encoder writes"
        )
    return paths
