"""Questions about a scene, each with the statements that a dual encoder ranks."""

from __future__ import annotations

from vlmvid.data.probes import balanced_probes, presence_question, with_article
from vlmvid.data.synthetic.language import attribute_statement, motion_statement, object_statement
from vlmvid.data.synthetic.world import (
    COLOURS,
    COUNTS,
    MOTIONS,
    OBJECTS,
    POPULARITY,
    SHAPES,
    SIZES,
    Scene,
    object_weights,
    stream,
)
from vlmvid.types import Question

_ASKED: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "shape": ("which shape is it?", SHAPES),
    "colour": ("which colour is it?", COLOURS),
    "size": ("how large is it?", SIZES),
    "count": ("how many are there?", COUNTS),
}


def scene_questions(scene: Scene, *, video_id: str, seed: int, number: int) -> tuple[Question, ...]:
    """Multiple-choice, yes/no and open questions, then absent-object probes.

    The choices of a multiple-choice question are all values of the attribute, so chance is one
    over their number. The yes/no question asks for a context object, present or absent with
    equal probability.
    """
    questions = [_attribute_question(scene, name, video_id) for name in _ASKED]
    questions.append(_order_question(scene, video_id) if scene.is_order else _motion_question(scene, video_id))
    questions.append(_open_question(scene, video_id))
    questions.append(_presence_question(scene, video_id, seed, number))
    return (*questions, *_probes(scene, video_id, seed, number))


def absent_objects(scene: Scene, kind: str, *, seed: int, number: int) -> tuple[str, ...]:
    """The context objects that are not in the scene, the first to be asked first.

    ``random``: any order. ``popular``: the most frequent first. ``adversarial``: the one that
    most often stands beside the scene's own objects and shape first (POPE, arXiv 2305.10355).
    """
    absent = [name for name in OBJECTS if name not in scene.objects]
    if kind == "popular":
        return tuple(sorted(absent, key=lambda name: -POPULARITY[name]))
    if kind == "adversarial":
        weights = dict(zip(OBJECTS, object_weights(scene.shape, scene.objects), strict=True))
        return tuple(sorted(absent, key=lambda name: -weights[name]))
    order = stream(seed, "probe/random", number).permutation(len(absent))
    return tuple(absent[i] for i in order)


def _attribute_question(scene: Scene, name: str, video_id: str) -> Question:
    text, values = _ASKED[name]
    return Question(
        question_id=f"{video_id}/{name}",
        kind="mcq",
        question=text,
        answer=str(getattr(scene, name)),
        choices=tuple(str(value) for value in values),
        statements=tuple(attribute_statement(name, value) for value in values),
        attributes={"attribute": name},
    )


def _motion_question(scene: Scene, video_id: str) -> Question:
    return Question(
        question_id=f"{video_id}/motion",
        kind="mcq",
        question="what does it do?",
        answer=scene.events[0],
        choices=MOTIONS,
        statements=tuple(motion_statement((motion,)) for motion in MOTIONS),
        attributes={"attribute": "motion"},
    )


def _order_question(scene: Scene, video_id: str) -> Question:
    # Both orders in a fixed sequence, so that the answer's place tells nothing.
    orders = sorted((scene.events, scene.events[::-1]))
    return Question(
        question_id=f"{video_id}/order",
        kind="mcq",
        question="in which order does it happen?",
        answer="_then_".join(scene.events),
        choices=tuple("_then_".join(events) for events in orders),
        statements=tuple(motion_statement(events) for events in orders),
        attributes={"attribute": "order"},
    )


def _open_question(scene: Scene, video_id: str) -> Question:
    return Question(
        question_id=f"{video_id}/open",
        kind="open",
        question="what happens in the clip?",
        answer=motion_statement(scene.events),
        attributes={"attribute": "motion"},
    )


def _presence_question(scene: Scene, video_id: str, seed: int, number: int) -> Question:
    rng = stream(seed, "question/presence", number)
    present = bool(rng.random() < 0.5)
    names = scene.objects if present else absent_objects(scene, "random", seed=seed, number=number)
    name = names[int(rng.integers(len(names)))]
    return _object_question(
        name, present, question_id=f"{video_id}/presence", task="vqa", attributes={"attribute": "object"}
    )


def _probes(scene: Scene, video_id: str, seed: int, number: int) -> list[Question]:
    def ask(kind: str, name: str, present: bool) -> Question:
        return _object_question(
            name,
            present,
            question_id=f"{video_id}/{kind}/{name}",
            task="hallucination",
            attributes={"negatives": kind, "object": name},
        )

    return list(balanced_probes(scene.objects, lambda kind: absent_objects(scene, kind, seed=seed, number=number), ask))


def _object_question(
    name: str, present: bool, *, question_id: str, task: str, attributes: dict[str, str | int | float | bool]
) -> Question:
    return presence_question(
        present,
        question_id=question_id,
        question=f"is there {with_article(name)} in the clip?",
        statements=(object_statement(name, present=True), object_statement(name, present=False)),
        task=task,
        attributes=attributes,
    )
