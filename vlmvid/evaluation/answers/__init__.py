"""Parsers: a raw response to an answer, or None where it holds none. Each has a version in its name."""

from vlmvid.evaluation.answers.base import Parser, as_is, text

__all__ = ["Parser", "as_is", "text"]
