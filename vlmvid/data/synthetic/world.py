"""What a scene of the synthetic world contains, and how scenes are sampled.

A scene has a main object (shape, colour, size, count) that makes one motion, or two one after
the other ("order" scenes); a group that is visible in every frame and in no caption; and static
context objects whose frequency and co-occurrence are skewed.

Half of all shape x colour x motion combinations are kept for the test split (`held_out_motions`),
such that every shape meets every motion, every colour every motion and every shape every colour
in training too. What is held out for a shape and colour is closed under time reversal and holds one
direction axis and one of spin and approach, so that temporal pairs and order scenes exist within it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
COUNTS = (1, 2, 3)
DIRECTIONS = ("left", "right", "up", "down")
TURNS = ("spin", "approach")
MOTIONS = DIRECTIONS + TURNS
GROUPS = ("warm", "cool")
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
NUM_SLOTS = 4

# Most frequent first: this order is what "popular" negatives follow.
OBJECTS = ("tree", "house", "flower", "lamp", "mushroom", "flag", "rock", "fence")
POPULARITY = {
    "tree": 8.0, "house": 6.0, "flower": 4.5, "lamp": 3.5, "mushroom": 2.5, "flag": 2.0, "rock": 1.5, "fence": 1.2,
}  # fmt: skip
# Factor on an object's weight once another one is present; symmetric, everything else is 1.
# The rarest objects have the strongest ties, so that "adversarial" differs from "popular".
_TIES = {
    ("tree", "rock"): 7.0,
    ("house", "fence"): 9.0,
    ("flower", "mushroom"): 6.0,
    ("lamp", "flag"): 7.0,
    ("tree", "mushroom"): 2.0,
    ("house", "lamp"): 1.5,
}  # fmt: skip
_SHAPE_COMPANION = {
    "circle": "tree", "square": "house", "triangle": "flag", "star": "lamp", "cross": "rock", "ring": "flower",
}  # fmt: skip
_SHAPE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Nuisance:
    """What varies without being named: position (parts of the frame), scale and brightness factors."""

    offset_x: float = 0.0
    offset_y: float = 0.0
    scale: float = 1.0
    brightness: float = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides the frames and the truth of a text about them.

    `events` holds one motion or, in order scenes, two. `objects[i]` stands in slot `slots[i]`.
    """

    shape: str
    colour: str
    size: str
    count: int
    events: tuple[str, ...]
    group: str
    objects: tuple[str, ...]
    slots: tuple[int, ...]
    nuisance: Nuisance = Nuisance()

    @property
    def is_order(self) -> bool:
        """True when the clip shows two events in order."""
        return len(self.events) == 2

    @property
    def motion(self) -> str:
        """The motion attribute: one motion, or ``"left_then_spin"``."""
        return "_then_".join(self.events)

    @property
    def signature(self) -> tuple[object, ...]:
        """What a full caption names; two scenes of a gallery must differ in it."""
        return (self.shape, self.colour, self.size, self.count, self.events, frozenset(self.objects))

    def combinations(self) -> frozenset[tuple[str, str, str]]:
        """The shape x colour x motion combinations that the scene shows."""
        return frozenset((self.shape, self.colour, event) for event in self.events)


def stream(seed: int, name: str, *index: int) -> np.random.Generator:
    """An independent generator for (seed, name, index); drawing from one never shifts another."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode()), *index]))


def held_out_motions(shape: str, colour: str) -> tuple[str, ...]:
    """The motions of this shape and colour that only the test split shows: two directions and a turn."""
    # A checkerboard: whatever the shape (or colour), three colours (or shapes) share its held-out motions.
    if (SHAPES.index(shape) + COLOURS.index(colour)) % 2 == 0:
        return ("left", "right", "spin")
    return ("up", "down", "approach")


def allowed_motions(shape: str, colour: str, *, test: bool) -> tuple[str, ...]:
    """The motions this shape and colour may show in the test split, or else in training."""
    held_out = held_out_motions(shape, colour)
    return tuple(motion for motion in MOTIONS if (motion in held_out) == test)


def is_test_scene(scene: Scene) -> bool:
    """True when every combination that the scene shows is held out."""
    held_out = held_out_motions(scene.shape, scene.colour)
    return all(event in held_out for event in scene.events)


def tie(first: str, second: str) -> float:
    """How much more likely two context objects are together than their frequencies say (1 = not at all)."""
    return _TIES.get((first, second), _TIES.get((second, first), 1.0))


def object_weights(shape: str, present: tuple[str, ...]) -> np.ndarray:
    """Probabilities over OBJECTS of the next context object; float64 (8,), zero where already present."""
    weights = np.array([POPULARITY[name] for name in OBJECTS])
    for i, name in enumerate(OBJECTS):
        if name in present:
            weights[i] = 0.0
            continue
        if _SHAPE_COMPANION[shape] == name:
            weights[i] *= _SHAPE_FACTOR
        for other in present:
            weights[i] *= tie(name, other)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def pick(rng: np.random.Generator, weights: np.ndarray) -> int:
    """An index drawn with these probabilities, from exactly one uniform number."""
    place = int(np.searchsorted(np.cumsum(weights), rng.random(), side="right"))
    # The sum may fall short of 1 by rounding.
    return min(place, len(weights) - 1)


def _one_of(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _sample_objects(rng: np.random.Generator, shape: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    objects: tuple[str, ...] = ()
    for _ in range(1 + pick(rng, np.array([0.3, 0.5, 0.2]))):
        objects = (*objects, OBJECTS[pick(rng, object_weights(shape, objects))])
    slots = tuple(int(slot) for slot in rng.permutation(NUM_SLOTS)[: len(objects)])
    return objects, slots


def _sample_nuisance(rng: np.random.Generator) -> Nuisance:
    offset_x, offset_y = rng.uniform(-0.04, 0.04, size=2)
    return Nuisance(
        offset_x=round(float(offset_x), 4),
        offset_y=round(float(offset_y), 4),
        scale=round(float(rng.uniform(0.94, 1.06)), 4),
        brightness=round(float(rng.uniform(0.92, 1.08)), 4),
    )


def sample_scene(rng: np.random.Generator, *, kind: str, test: bool, group: str | None = None) -> Scene:
    """A scene of `kind` ``"order"``, ``"direction"``, ``"turn"`` or ``"single"`` (any one motion)."""
    shape, colour = _one_of(rng, SHAPES), _one_of(rng, COLOURS)
    size, count = _one_of(rng, SIZES), COUNTS[int(rng.integers(len(COUNTS)))]
    allowed = allowed_motions(shape, colour, test=test)
    direction = _one_of(rng, tuple(motion for motion in allowed if motion in DIRECTIONS))
    turn = _one_of(rng, tuple(motion for motion in allowed if motion in TURNS))
    swap, single = rng.random() < 0.5, _one_of(rng, allowed)
    events = {
        "order": (turn, direction) if swap else (direction, turn),
        "direction": (direction,),
        "turn": (turn,),
        "single": (single,),
    }[kind]
    drawn_group = _one_of(rng, GROUPS)
    objects, slots = _sample_objects(rng, shape)
    return Scene(shape, colour, size, count, events, group or drawn_group, objects, slots, _sample_nuisance(rng))


def reverse_in_time(scene: Scene) -> Scene:
    """The scene whose frames are the same in another order: events swapped, or the opposite direction."""
    events = scene.events[::-1] if scene.is_order else (OPPOSITE[scene.events[0]],)
    return replace(scene, events=events)
