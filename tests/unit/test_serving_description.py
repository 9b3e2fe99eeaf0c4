"""What a loaded model says of itself in a terminal and in a notebook."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.unit.test_serving_load import template
from vlmvid.serving.load import load
from vlmvid.serving.model_folder import MANIFEST


def test_a_model_names_its_parts_its_frames_and_its_digest() -> None:
    folder = template()[0]
    model = load(folder, device="cpu")
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert (model.digest, model.name, model.embeds, model.speaks) == (digest, "tiny", True, False)
    assert repr(model).splitlines() == [
        "VideoTextModel 'tiny': compares videos with texts",
        "  vision     timm:test_vit, feature mean, 64 values",
        "  text       bert, mean pooling, 16 values",
        "  pooling    frame_mean over time steps",
        "  heads      linear for videos, linear for texts",
        "  embedding  8 values",
        "  frames     3, uniform, 64 x 64 pixels",
        f"  digest     {digest[:12]}",
    ]
    html = model._repr_html_()
    assert "<th" in html and "timm:test_vit" in html and digest[:12] in html


def test_what_a_model_folder_says_is_escaped(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(template()[0], tmp_path / "model"))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["info"]["recipe"] = "<script>alert(1)</script>"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    html = load(folder, device="cpu")._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html
