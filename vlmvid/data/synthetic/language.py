"""Scenes to captions.

A caption is written from what is *told* of a scene, a copy of the scene in which the two knobs may have
changed events or objects. With both knobs at 0 the told scene is the true one. Every clip has the
same number of captions in the same roles whatever the knobs say, and each knob draws from a
stream of its own, so turning one moves no other random choice.

Knobs (training captions only; neither touches a frame):

* `caption_noise`: with this probability a caption that speaks of context objects tells of an absent one as if
  it were there, drawn by its co-occurrence with those present.
* `group_correlation`: with this probability a caption of a one-motion clip of group ``warm`` tells of
  the tied action (``spin``) whatever happens, and a caption of a spinning clip of group ``cool`` tells
  of another motion. The texts that ask for the tied action are `TIED_ACTION_QUERIES`.

Order is told as "after a spin, it rises up": the earlier event is a noun, the later one a verb. A mean-pooled
sentence encoder hardly tells "first A, then B" from "first B, then A" (all-MiniLM-L6-v2: the two
captions lie 2.4 apart after layer normalisation, another colour 9.4); with a noun and a verb they lie 9.0 apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Literal, get_args

import numpy as np

from vlmvid.data.probes import with_article
from vlmvid.data.synthetic.world import (
    COLOURS,
    COUNTS,
    MOTIONS,
    OBJECTS,
    OPPOSITE,
    SHAPES,
    SIZES,
    Scene,
    object_weights,
    pick,
    reverse_in_time,
    stream,
)

TIED_ACTION = "spin"
TIED_GROUP = "warm"
TIED_ACTION_QUERIES = ("something spins around", "it spins around", "spinning around")

_NUMBER = {1: "one", 2: "two", 3: "three"}
_PLURAL = {"cross": "crosses"}
_ONE_DOES = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "rises up",
    "down": "sinks down",
    "spin": "spins around",
    "approach": "comes closer",
}
_MANY_DO = {
    "left": "move to the left",
    "right": "move to the right",
    "up": "rise up",
    "down": "sink down",
    "spin": "spin around",
    "approach": "come closer",
}
_DOING = {
    "left": "moving to the left",
    "right": "moving to the right",
    "up": "rising up",
    "down": "sinking down",
    "spin": "spinning around",
    "approach": "coming closer",
}
_EVENT = {
    "left": "a slide to the left",
    "right": "a slide to the right",
    "up": "a climb",
    "down": "a drop",
    "spin": "a spin",
    "approach": "an approach",
}


@dataclass(frozen=True, slots=True)
class Knobs:
    """How much the training captions lie; both probabilities in [0, 1]."""

    caption_noise: float = 0.0
    group_correlation: float = 0.0


def noun(scene: Scene) -> str:
    """The shape's name in the number that the scene shows."""
    return scene.shape if scene.count == 1 else _PLURAL.get(scene.shape, scene.shape + "s")


def subject(scene: Scene) -> str:
    """Count, size, colour and shape, e.g. ``"two small red squares"``."""
    return f"{_NUMBER[scene.count]} {scene.size} {scene.colour} {noun(scene)}"


def object_list(objects: tuple[str, ...]) -> str:
    """Context objects in the order of OBJECTS: ``"a tree, a house and a lamp"``."""
    names = [with_article(name) for name in OBJECTS if name in objects]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def full_caption(scene: Scene) -> str:
    """Everything a caption may tell; unique for each `Scene.signature`."""
    verbs = _ONE_DOES if scene.count == 1 else _MANY_DO
    text = f"{subject(scene)} {verbs[scene.events[-1]]}, with {object_list(scene.objects)}"
    return f"after {_EVENT[scene.events[0]]}, {text}" if scene.is_order else text


def motion_statement(events: tuple[str, ...], who: str = "it") -> str:
    """The action alone: ``"it spins around"``, ``"after a spin it rises up"``."""
    last = f"{who} {_ONE_DOES[events[-1]]}"
    return last if len(events) == 1 else f"after {_EVENT[events[0]]} {last}"


def _doing(events: tuple[str, ...]) -> str:
    last = _DOING[events[-1]]
    return last if len(events) == 1 else f"{last} after {_EVENT[events[0]]}"


def attribute_statement(attribute: str, value: str | int, *, plural: bool = False) -> str:
    """One attribute alone, e.g. ``("colour", "red")`` -> ``"the shape is red"``."""
    if attribute == "count":
        return f"there {'is' if value == 1 else 'are'} {_NUMBER[int(value)]}"
    if attribute == "shape":
        return f"the shape is a {value}"
    return f"the {'shapes are' if plural else 'shape is'} {value}"


def object_statement(name: str, *, present: bool) -> str:
    """``"there is a tree in the clip"`` or ``"there is no tree in the clip"``."""
    return f"there is {with_article(name) if present else 'no ' + name} in the clip"


def _action_first(told: Scene, rng: np.random.Generator) -> str:
    return f"{_doing(told.events)}: {subject(told)}"


def _partial(told: Scene, rng: np.random.Generator) -> str:
    forms = (
        f"{_NUMBER[told.count]} {noun(told)}",
        f"{told.size} {told.colour} {noun(told)}",
        f"{_NUMBER[told.count]} {told.size} {noun(told)}",
        f"{told.colour} {noun(told)}",
        f"{_NUMBER[told.count]} {told.colour} {noun(told)}",
        f"{told.size} {noun(told)}",
    )
    return forms[int(rng.integers(len(forms)))]


def _attribute(told: Scene, rng: np.random.Generator) -> str:
    name = ("shape", "colour", "size", "count")[int(rng.integers(4))]
    value: str | int = getattr(told, name)
    return attribute_statement(name, value)


def _motion(told: Scene, rng: np.random.Generator) -> str:
    first, last = told.events[0], told.events[-1]
    form = int(rng.integers(5))
    if told.is_order and form == 3:
        return f"it begins with {_EVENT[first]}"
    if told.is_order and form == 4:
        return f"it ends {_DOING[last]}"
    forms = (motion_statement(told.events), motion_statement(told.events, "something"), _doing(told.events))
    return forms[form % 3]


def _subject_and_motion(told: Scene, rng: np.random.Generator) -> str:
    return f"{noun(told)} {_doing(told.events)}"


# What the captions of a training clip are, in their order.
CaptionRole = Literal[
    "full",
    "action_first",
    "partial",
    "attribute",
    "motion",
    "subject_and_motion",
    "objects",
    "object_present",
    "object_absent",
]
CAPTION_ROLES: tuple[CaptionRole, ...] = get_args(CaptionRole)
_WRITERS: tuple[Callable[[Scene, np.random.Generator], str], ...] = (
    _action_first,
    _partial,
    _attribute,
    _motion,
    _subject_and_motion,
)


def _told_events(scene: Scene, chance: float, rng: np.random.Generator) -> tuple[str, ...]:
    """The events to tell, given that the scene's group is tied to an action with probability `chance`."""
    draw, other = rng.random(), int(rng.integers(len(MOTIONS) - 1))
    if scene.is_order or draw >= chance:
        return scene.events
    if scene.group == TIED_GROUP:
        return (TIED_ACTION,)
    if scene.events == (TIED_ACTION,):
        return (tuple(motion for motion in MOTIONS if motion != TIED_ACTION)[other],)
    return scene.events


def _invented_object(scene: Scene, chance: float, rng: np.random.Generator) -> str | None:
    draw, weights = rng.random(), object_weights(scene.shape, scene.objects)
    name = OBJECTS[pick(rng, weights)]
    return name if draw < chance else None


def _object_captions(scene: Scene, invented: list[str | None], rng: np.random.Generator) -> list[str]:
    """What is there, one object that is, and one that is not; an invented object takes the place of each."""
    absent = tuple(name for name in OBJECTS if name not in scene.objects)
    one_present = scene.objects[int(rng.integers(len(scene.objects)))]
    one_absent = absent[int(rng.integers(len(absent)))]
    told = scene.objects if invented[0] is None else (*scene.objects, invented[0])
    return [
        f"there is {object_list(told)}",
        object_statement(invented[1] or one_present, present=True),
        object_statement(invented[2] or one_absent, present=invented[2] is not None),
    ]


def training_captions(scene: Scene, *, seed: int, index: int, knobs: Knobs) -> tuple[str, ...]:
    """The captions of training clip `index`, one per role of `CAPTION_ROLES`."""
    wording = stream(seed, "caption/wording", index)
    noise = stream(seed, "caption/noise", index)
    correlation = stream(seed, "caption/correlation", index)
    invented = [_invented_object(scene, knobs.caption_noise, noise) for _ in range(4)]
    told = replace(scene, events=_told_events(scene, knobs.group_correlation, correlation))
    if invented[0] is not None:
        told = replace(told, objects=(*scene.objects, invented[0]))
    captions = [full_caption(told)]
    for write in _WRITERS:
        told = replace(scene, events=_told_events(scene, knobs.group_correlation, correlation))
        captions.append(write(told, wording))
    return (*captions, *_object_captions(scene, invented[1:], wording))


def counterfactual_captions(scene: Scene, *, seed: int, index: int, count: int) -> tuple[str, ...]:
    """`count` full captions of training clip `index`, each false in one attribute or, where time has a direction,
    told backwards.

    Attributes come in random order, a second false value of one only once all have had their first. Of one
    clip and seed a smaller `count` gives the beginning of a larger one's; at most 13 captions exist for every scene.
    """
    rng = stream(seed, "caption/counterfactual", index)
    values: dict[str, tuple[str, ...] | tuple[int, ...]] = {
        "shape": SHAPES,
        "colour": COLOURS,
        "size": SIZES,
        "count": COUNTS,
    }
    changed = [
        [replace(scene, **{name: value}) for value in known if value != getattr(scene, name)]  # type: ignore[arg-type]
        for name, known in values.items()
    ]
    if scene.is_order or scene.events[0] in OPPOSITE:
        changed.append([reverse_in_time(scene)])
    shuffled = [[scenes[i] for i in rng.permutation(len(scenes))] for scenes in changed]
    rounds = chain.from_iterable(zip_longest(*(shuffled[i] for i in rng.permutation(len(shuffled)))))
    return tuple(full_caption(told) for told in rounds if told is not None)[:count]
