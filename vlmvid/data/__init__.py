"""Datasets by name; one file each."""

from __future__ import annotations

import importlib

from vlmvid.config.load import validate
from vlmvid.config.schema import DataConfig
from vlmvid.data.base import Dataset
from vlmvid.registry import Registry

# Strings, so that a recipe loads only the dataset it names.
DATASETS: Registry[str] = Registry("dataset")
DATASETS.register("synthetic", "vlmvid.data.synthetic.dataset:SyntheticDataset")
DATASETS.register("image_text", "vlmvid.data.image_text:ImageTextDataset")
DATASETS.register("manifest", "vlmvid.data.manifest:ManifestDataset")
DATASETS.register("folder", "vlmvid.data.folder:FolderDataset")


def open_dataset(config: DataConfig) -> Dataset:
    """The dataset of a recipe; raises ConfigError for an unknown name or wrong options."""
    module, _, name = DATASETS.get(config.name).partition(":")
    dataset_class: type[Dataset] = getattr(importlib.import_module(module), name)
    options = validate(dataset_class.options_class, config.options, source=f"data.options of {config.name!r}")
    return dataset_class(options)


__all__ = ["DATASETS", "Dataset", "open_dataset"]
