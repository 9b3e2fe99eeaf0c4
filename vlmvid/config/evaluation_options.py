"""Options of single evaluation tasks."""

from __future__ import annotations

from pydantic import Field

from vlmvid.config.base import Config


class ClassificationConfig(Config):
    """Zero-shot classification of the recipe's own clips by one of their attributes."""

    attribute: str = Field(default="action", min_length=1, description="attribute of the clips that holds the class")
    templates: tuple[str, ...] = Field(
        default=(),
        description="prompts, each with one {} for the name of the class, averaged; () = our own for actions",
    )
    names: dict[str, str] = Field(
        default_factory=dict, description="value of the attribute: the words that stand for it in the prompts"
    )


class ConceptsConfig(Config):
    """The concepts whose frequency in the training captions is counted."""

    vocabulary: tuple[str, ...] = Field(
        default=(), description="() = the most frequent words of the evaluated captions"
    )
    num_words: int = Field(default=200, gt=0, description="how many of those at most")
