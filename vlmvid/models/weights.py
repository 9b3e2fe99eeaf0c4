"""Digests of model weights, for stage keys. Never imports torch, so `plan` stays fast.

A digest covers every file that decides the features: weights, model config, preprocessing or
tokenizer. It covers file names and bytes, not the folder they lie in.
"""

from __future__ import annotations

from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.models.digests import HashFile, check_digest, files_digest, sha256_file
from vlmvid.models.families import vision_files
from vlmvid.models.text_families import text_files


def vision_weights_digest(config: VisionConfig, hash_file: HashFile = sha256_file) -> str:
    """A short name for the vision weights: ``"sha256:..."``, or ``"random:SEED:..."``.

    `hash_file` maps a file to its hexadecimal sha256; pass a cached one to read big files once.
    Raises ConfigError when the weights are not on this machine and CheckpointError when they are not those of
    `config.sha256`.
    """
    files = vision_files(config)
    if config.sha256 is not None:
        check_digest(config.backbone, config.sha256, files, hash_file)
    digest = files_digest(files, hash_file)
    return f"sha256:{digest}" if config.pretrained else f"random:{config.seed}:{digest}"


def text_weights_digest(config: TextConfig, hash_file: HashFile = sha256_file) -> str:
    """A short name for the text encoder's files: ``"sha256:..."``; see `vision_weights_digest`."""
    files = text_files(config)
    if config.sha256 is not None:
        check_digest(config.encoder, config.sha256, files, hash_file)
    return f"sha256:{files_digest(files, hash_file)}"
