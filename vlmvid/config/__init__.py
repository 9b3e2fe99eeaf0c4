"""Recipes: frozen pydantic models read from YAML."""

from vlmvid.config.base import Config
from vlmvid.config.load import load_recipe, validate
from vlmvid.config.schema import Recipe

__all__ = ["Config", "Recipe", "load_recipe", "validate"]
