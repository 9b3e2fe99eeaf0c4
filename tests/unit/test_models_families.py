"""The code digest of a vision backbone holds its own family; that of the texts holds none."""

from __future__ import annotations

import pytest

from vlmvid.artifacts.code import code_closure
from vlmvid.config.encoders import VisionConfig
from vlmvid.models.families import VISION_BACKBONES, backbone_module, split_backbone

BACKBONES = "vlmvid.models.backbones"
# Backbone, the modules of its family, the package that builds it.
FAMILIES = {
    "efficientnet-lite0": ({"efficientnet_lite", "timm_backbone"}, "timm"),
    "efficientnet-lite1": ({"efficientnet_lite", "timm_backbone"}, "timm"),
    "efficientnet-lite2": ({"efficientnet_lite", "timm_backbone"}, "timm"),
    "timm:test_vit": ({"timm_backbone"}, "timm"),
    "hf:some/repo": ({"hf_backbone"}, "transformers"),
    "video:/some/folder": ({"video_backbone"}, "timm"),
}


@pytest.mark.parametrize("spec", FAMILIES)
def test_the_code_of_a_backbone_is_its_own_family_alone(spec: str) -> None:
    own, package = FAMILIES[spec]
    modules, packages = code_closure([backbone_module(VisionConfig(backbone=spec)), "vlmvid.models.clip_encoder"])
    found = {name for name in modules if name.startswith(BACKBONES)}
    assert found == {f"{BACKBONES}.{name}" for name in {"base", *own}}
    assert "vlmvid.models.clip_encoder" in modules
    # The tables of families name every family: one import of them would pull in all.
    assert not {"vlmvid.models.families", "vlmvid.models.text_families", "vlmvid.models.text"} & modules.keys()
    assert set(packages) & {"timm", "transformers"} == {package}


def test_every_family_names_the_module_that_its_loader_imports() -> None:
    families = {spec.partition(":")[0]: split_backbone(spec)[0] for spec in FAMILIES}
    assert sorted(families) == VISION_BACKBONES.names()
    for family in families.values():
        assert family.module in family.load.__code__.co_names


def test_texts_do_not_depend_on_vision_backbones() -> None:
    modules, packages = code_closure(["vlmvid.models.text"])
    assert "vlmvid.models.text_families" in modules
    assert not [name for name in modules if name.startswith(BACKBONES) or name == "vlmvid.models.families"]
    assert "timm" not in packages
