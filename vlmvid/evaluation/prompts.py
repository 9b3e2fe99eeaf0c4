"""Prompts of zero-shot classification: class names in templates, their embeddings averaged.

The lists are short and our own. Published ones are longer (80 for ImageNet in CLIP, arXiv 2103.00020; 28 for
Kinetics) and give other numbers: put them into a file, one template per line, to compare with papers that use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, MissingDataError
from vlmvid.evaluation.base import EmbedTexts
from vlmvid.evaluation.scoring.base import Item
from vlmvid.metrics.classification import ensemble
from vlmvid.registry import nearest

SLOT = "{}"
# Pictures of a thing; videos of somebody doing something; names that are whole sentences.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "name": (SLOT,),
    "image": (
        "a photo of a {}.",
        "a picture that shows a {}.",
        "a {} seen from close by.",
        "a {} seen from far away.",
        "a dark or blurry picture of a {}.",
        "a drawing of a {}.",
        "several of the kind {} in one picture.",
    ),
    "action": (
        "a video of a person {}.",
        "a video of people {}.",
        "someone is {} in this clip.",
        "a short recording that shows {}.",
        "here the action is {}.",
    ),
    "sentence": (SLOT, "a video: {}", "what happens here: {}"),
}
TEMPLATES_OPTION = f"a list of templates ({', '.join(TEMPLATES)}) or a text file with one template per line"

Names = Sequence[str | Sequence[str]]


def read_templates(choice: str) -> tuple[str, ...]:
    """The templates of a list by its name, or of a text file with one per line.

    Raises MissingDataError for neither, ConfigError for a template without exactly one ``{}`` or an empty file.
    """
    if choice in TEMPLATES:
        return TEMPLATES[choice]
    path = Path(choice).expanduser()
    if not path.is_file():
        raise MissingDataError(
            f"templates={choice!r}{nearest(choice, sorted(TEMPLATES))} is neither a known list "
            f"({', '.join(TEMPLATES)}) nor a file with one template per line"
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"templates of {path} cannot be read as UTF-8 text: {error}") from error
    return check_templates([line for line in lines if line], str(path))


def check_templates(templates: Sequence[str], source: str) -> tuple[str, ...]:
    """`templates` as a tuple; raises ConfigError where there is none, or one without exactly one ``{}``."""
    wrong = [template for template in templates if template.count(SLOT) != 1]
    if wrong or not templates:
        what = f"{wrong[0]!r} has {wrong[0].count(SLOT)} places" if wrong else "there is none"
        raise ConfigError(f"templates of {source}: {what}; each needs one {SLOT} for the name of the class")
    return tuple(templates)


def templates_of(item: Item) -> tuple[str, ...]:
    """The templates that a classification benchmark gave its items; the bare name where there are none."""
    return tuple(item.extra.get("templates", TEMPLATES["name"]))


def prompts(names: Names, templates: Sequence[str]) -> tuple[list[str], list[int]]:
    """Every prompt with the index of its class: each name, or each synonym of it, in each template."""
    texts: list[str] = []
    owners: list[int] = []
    for index, name in enumerate(names):
        for synonym in (name,) if isinstance(name, str) else name:
            # Not str.format: a class name may hold braces.
            texts += [template.replace(SLOT, synonym) for template in templates]
            owners += [index] * len(templates)
    return texts, owners


def class_embeddings(names: Names, templates: Sequence[str], embed_texts: EmbedTexts) -> NDArray[np.float32]:
    """One L2-normalised embedding for each class, float32 (C, D).

    The embeddings of all its prompts are normalised, averaged and normalised again (CLIP, arXiv 2103.00020; SAIL, arXiv
    2412.04616). Equal prompts are embedded once, so that classes of one name tie exactly.

    Args:
        names: a name for each class, or several synonyms.
        templates: each with one ``{}``; see `TEMPLATES`.
        embed_texts: texts -> float32 (M, D).

    Raises:
        ConfigError: no class, or a template without exactly one ``{}``.
    """
    if not names:
        raise ConfigError("there is no class to embed; give at least one name")
    texts, owners = prompts(names, check_templates(templates, "class_embeddings"))
    unique = list(dict.fromkeys(texts))
    row = {text: number for number, text in enumerate(unique)}
    embeds = np.asarray(embed_texts(unique), dtype=np.float32)
    return ensemble(embeds[[row[text] for text in texts]], owners)
