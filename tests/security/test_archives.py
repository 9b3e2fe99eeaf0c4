"""Archives and caption files that would fill the memory or leave their folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.base import Defect
from vlmvid.data.files import MAX_TEXT_BYTES, read_text
from vlmvid.errors import DecodeError
from vlmvid.types import Clip


def add(archive: tarfile.TarFile, name: str, content: bytes, **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg")
    return file.getvalue()


def read(folder: Path) -> tuple[list[Clip], list[Defect]]:
    config = DataConfig(name="cc3m", options={"root": str(folder), "captions": ["txt"]})
    return open_dataset(config).clips(folder)


def test_a_shard_is_never_unpacked_and_its_captions_have_a_limit(tmp_path: Path) -> None:
    shards = tmp_path / "in" / "shards"
    shards.mkdir(parents=True)
    with tarfile.open(shards / "00000.tar", "w") as archive:
        for name in ("good", "huge"):
            add(archive, f"{name}.jpg", picture())
        add(archive, "good.txt", b"a picture")
        add(archive, "huge.txt", b"x" * (MAX_TEXT_BYTES + 1))
        add(archive, "../../outside.txt", b"x")
        add(archive, "/outside.txt", b"x")
        add(archive, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    clips, defects = read(shards)
    assert [clip.video_id for clip in clips] == ["00000/good"]
    codes = {defect.video_id: defect.reason_code for defect in defects}
    assert codes["00000/../../outside.txt"] == codes["00000//outside.txt"] == "unsafe_name"
    assert "caption_too_large" in [defect.reason_code for defect in defects if defect.video_id == "00000/huge"]
    assert sorted(tmp_path.rglob("*")) == before and not Path("/outside.txt").exists()


def test_a_sparse_caption_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
    with pytest.raises(DecodeError, match=r"1,099,511,627,776 bytes, more than the 16,777,216") as error:
        read_text(path)
    assert error.value.reason_code == "caption_too_large"
