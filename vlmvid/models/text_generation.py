"""Replies of a causal language model of Hugging Face to single prompts: a judge on one's own machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vlmvid.errors import ConfigError
from vlmvid.models import sources
from vlmvid.models.module_files import DAMAGED_WEIGHTS, unreadable
from vlmvid.models.runtime import resolve_device
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.transformers_loading import config_of_folder, quiet_transformers

PROMPTS_PER_BATCH = 8


def load_generator(
    repo_or_folder: str, *, device: str = "auto", max_new_tokens: int = 256
) -> Callable[[Sequence[str]], list[str]]:
    """A function of prompts to replies, the most probable token at each step, so that equal prompts get equal replies.

    Read from local files only; code that comes with a model is never run. A tokenizer with a chat template puts each
    prompt into a user's turn.

    Raises:
        MissingWeightsError: the model is not on this machine.
        ConfigError: it is no causal language model, or has no tokenizer.
        CheckpointError: its weights are damaged.
    """
    folder = sources.model_folder(repo_or_folder)
    ensure_torchvision()
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer

    target = resolve_device(device)
    files = sources.weight_files(folder)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} has no tokenizer that can be read: {error}") from error
    config = config_of_folder(folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"{folder} holds a {config.model_type!r}, which is no causal language model")
    try:
        with quiet_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
            )
    except DAMAGED_WEIGHTS as error:
        raise unreadable(files[0], error) from error
    model = model.eval().to(target)
    tokenizer.padding_side = "left"  # the reply follows the prompt
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def generate(prompts: Sequence[str]) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(prompts), PROMPTS_PER_BATCH):
            texts = [_turn(tokenizer, prompt) for prompt in prompts[start : start + PROMPTS_PER_BATCH]]
            inputs = tokenizer(texts, return_tensors="pt", padding=True).to(target)
            inputs.pop("token_type_ids", None)
            tokens = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
            replies += tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return replies

    return generate


def _turn(tokenizer: Any, prompt: str) -> str:
    if not tokenizer.chat_template:
        return prompt
    turn = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
