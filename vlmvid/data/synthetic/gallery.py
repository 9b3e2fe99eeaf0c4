"""Which clips the synthetic world holds: training, validation and the test gallery.

Every list can be extended without changing what it already holds: clip *i* depends on the seed, on *i*
and on the clips before it, never on how many follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmvid.data.synthetic.world import (
    COLOURS,
    COUNTS,
    DIRECTIONS,
    GROUPS,
    SHAPES,
    SIZES,
    TURNS,
    Scene,
    held_out_motions,
    is_test_scene,
    reverse_in_time,
    sample_scene,
    stream,
)
from vlmvid.errors import ConfigError
from vlmvid.types import AttributeValue, Split

# Test bases come in cycles of these kinds; the first two make a temporal pair with one distractor.
_BASE_KINDS = ("order", "direction", "turn")
_MAX_TRIES = 200


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """A clip before it is drawn.

    `differs_in` is empty for a base and else names the one attribute in which the clip differs from
    its base. `pair_id` joins the two clips of a temporal pair and is empty elsewhere. `number` is the
    clip's position in its split, from which its random choices derive.
    """

    video_id: str
    split: Split
    role: str
    number: int
    scene: Scene
    base_id: str = ""
    differs_in: str = ""
    pair_id: str = ""

    def attributes(self) -> dict[str, AttributeValue]:
        """The truth about the clip, as it enters the manifest."""
        scene = self.scene
        return {
            "role": self.role,
            "base_id": self.base_id,
            "differs_in": self.differs_in,
            "pair_id": self.pair_id,
            "shape": scene.shape,
            "colour": scene.colour,
            "size": scene.size,
            "count": scene.count,
            "motion": scene.motion,
            "order": scene.motion if scene.is_order else "",
            "group": scene.group,
            "objects": ",".join(sorted(scene.objects)),
        }


def training_clips(seed: int, num_clips: int, num_pairs: int) -> Iterator[PlannedClip]:
    """`num_clips` single scenes (every third an order scene), then both clips of `num_pairs` temporal pairs."""
    for i in range(num_clips):
        kind = "order" if i % 3 == 0 else "single"
        scene = sample_scene(stream(seed, "train", i), kind=kind, test=False)
        yield PlannedClip(f"train_{i:05d}", "train", "single", i, scene)
    for i in range(num_pairs):
        first = sample_scene(stream(seed, "train_pair", i), kind=_BASE_KINDS[i % 2], test=False)
        pair_id = f"train_pair_{i:05d}"
        for side, scene in enumerate((first, reverse_in_time(first))):
            number = 1_000_000 + 2 * i + side
            yield PlannedClip(f"{pair_id}_{'ab'[side]}", "train", "pair", number, scene, pair_id=pair_id)


def validation_clips(seed: int, num_clips: int) -> Iterator[PlannedClip]:
    """`num_clips` scenes of training combinations with captions unlike each other."""
    seen: set[tuple[object, ...]] = set()
    for i in range(num_clips):
        for attempt in range(_MAX_TRIES):
            kind = "order" if i % 3 == 0 else "single"
            scene = sample_scene(stream(seed, "val", i, attempt), kind=kind, test=False)
            if scene.signature not in seen:
                break
        else:
            raise _exhausted("num_val", num_clips, i)
        seen.add(scene.signature)
        yield PlannedClip(f"val_{i:05d}", "val", "single", i, scene)


def test_clips(seed: int, num_bases: int) -> Iterator[PlannedClip]:
    """The test gallery: each base with one distractor per attribute, no two captions alike.

    A base is followed by distractors that differ in shape, colour, size, count and in motion (or, for an
    order scene, in order). Groups alternate between cycles, spin and approach every
    second cycle, so that both are balanced over the groups.
    """
    seen: set[tuple[object, ...]] = set()
    number = 0
    for i in range(num_bases):
        kind, group = _BASE_KINDS[i % 3], GROUPS[(i // 3) % 2]
        for attempt in range(_MAX_TRIES):
            rng = stream(seed, "test", i, attempt)
            base = sample_scene(rng, kind=kind, test=True, group=group)
            if kind == "turn" and base.events != (TURNS[(i // 6) % 2],):
                continue
            family = {"": base, **_distractors(base, kind, rng)}
            signatures = {scene.signature for scene in family.values()}
            if len(signatures) == len(family) and not signatures & seen:
                break
        else:
            raise _exhausted("num_test_bases", num_bases, i)
        seen |= signatures
        base_id = f"test_{i:04d}"
        temporal = {"order": "order", "direction": "motion"}.get(kind)
        for differs_in, scene in family.items():
            paired = temporal is not None and differs_in in ("", temporal)
            yield PlannedClip(
                video_id=f"{base_id}_{differs_in or 'base'}",
                split="test",
                role="distractor" if differs_in else "base",
                number=number,
                scene=scene,
                base_id=base_id,
                differs_in=differs_in,
                pair_id=f"test_pair_{i:04d}" if paired else "",
            )
            number += 1


def _distractors(base: Scene, kind: str, rng: np.random.Generator) -> dict[str, Scene]:
    """One scene per attribute that differs from `base` in it alone and whose combinations are held out."""

    def other(name: str, values: tuple[str, ...] | tuple[int, ...]) -> Scene:
        changes: list[dict[str, Any]] = [{name: value} for value in values if value != getattr(base, name)]
        changed = [replace(base, **change) for change in changes]
        fitting = [scene for scene in changed if is_test_scene(scene)]
        return fitting[int(rng.integers(len(fitting)))]

    family = {
        "shape": other("shape", SHAPES),
        "colour": other("colour", COLOURS),
        "size": other("size", SIZES),
        "count": other("count", COUNTS),
    }
    if kind == "order":
        family["order"] = reverse_in_time(base)
    elif kind == "direction":
        family["motion"] = reverse_in_time(base)
    else:
        directions = [name for name in held_out_motions(base.shape, base.colour) if name in DIRECTIONS]
        family["motion"] = replace(base, events=(directions[int(rng.integers(len(directions)))],))
    return family


def _exhausted(option: str, asked: int, found: int) -> ConfigError:
    return ConfigError(
        f"{option}={asked} is more than the synthetic world has unlike captions for: after {found} no new one "
        f"was found in {_MAX_TRIES} tries; ask for at most {found}"
    )


__all__ = ["PlannedClip", "test_clips", "training_clips", "validation_clips"]
