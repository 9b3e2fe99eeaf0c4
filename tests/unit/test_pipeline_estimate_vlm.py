"""Estimates of the training stages of vision-language models: against torch's own counts, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.test_pipeline_estimate import counted, recipe
from vlmvid.config import Recipe
from vlmvid.config.encoders import VisionConfig
from vlmvid.config.schema import ExpectedData
from vlmvid.config.vlm import LanguageConfig, ScratchConfig, VisualConfig, VlmStageConfig
from vlmvid.models.sizes import TransformerSize, image_cost
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.vlm.sizes import LANGUAGE_SIZES, LanguageSize, front_size, language_size
from vlmvid.models.vlm.visual import VisualFront
from vlmvid.pipeline.estimate import GPUS, Models, vlm_resources
from vlmvid.pipeline.estimate_vlm import (
    ANSWER_SHARE,
    PROMPT_TOKENS,
    VlmParts,
    answer_share,
    block_bytes,
    learning_bytes,
    sample_tokens,
    stage_memory,
    stage_tokens,
    token_flops,
    vlm_disk,
    vlm_parts,
)
from vlmvid.types import Clip

_LLAMA = {"SmolLM2-135M": 9, "SmolLM2-360M": 15, "SmolLM2-1.7B": 32}
_QWEN2 = {"Qwen2.5-0.5B": 14, "Qwen2.5-1.5B": 12}


class TestLanguageSizes:
    @pytest.mark.parametrize("name", sorted(LANGUAGE_SIZES))
    def test_the_table_against_transformers(self, name: str) -> None:
        ensure_torchvision()
        size = LANGUAGE_SIZES[name]
        shape = size.transformer
        short = name.partition("/")[2].removesuffix("-Instruct")
        kind = "llama" if short in _LLAMA else "qwen2" if short in _QWEN2 else "qwen3"
        heads = (_LLAMA | _QWEN2).get(short, 16)
        attention = shape.attention_dim or shape.embed_dim
        values = {
            "hidden_size": shape.embed_dim,
            "intermediate_size": shape.mlp_dim,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": shape.kv_dim * heads // attention,
            "head_dim": attention // heads,
            "vocab_size": size.vocab_size,
            "tie_word_embeddings": True,
        }
        with torch.device("meta"):
            config = transformers.AutoConfig.for_model(kind, **values)
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
            flops = counted(model, input_ids=torch.zeros(1, 50, dtype=torch.long))
        assert shape.flops(50) + 50 * 2 * shape.embed_dim * size.vocab_size == pytest.approx(flops, rel=1e-3)
        assert shape.num_params == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-3)

    def test_from_scratch_and_from_a_folder(self, tmp_path: Path) -> None:
        ensure_torchvision()
        scratch = ScratchConfig(hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, vocab_size=300)
        found = language_size(LanguageConfig(model="scratch", scratch=scratch))
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            vocab_size=300,
            tie_word_embeddings=True,
        )
        model = transformers.LlamaForCausalLM(config)
        norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
        assert found is not None and found.vocab_size == 300
        assert found.transformer.num_params == sum(p.numel() for p in model.parameters()) - norms
        config.save_pretrained(tmp_path)
        assert language_size(LanguageConfig(model=f"hf:{tmp_path}")) == LanguageSize(
            TransformerSize(3, 32, 48, found.transformer.num_params, True, 32, 32, num_prefix_tokens=1), 300
        )
        assert language_size(LanguageConfig(model="hf:some/model")) is None

    @pytest.mark.parametrize(
        ("options", "tokens"),
        [
            ({"connector": {"kind": "linear"}}, 4 * 16),
            ({"connector": {"kind": "mlp", "width": 24, "depth": 2}}, 4 * 16),
            ({"connector": {"kind": "pixel_shuffle"}}, 4 * 4),
            ({"connector": {"kind": "perceiver", "num_queries": 5, "width": 16}}, 5),
            ({"connector": {"kind": "stc", "width": 32}}, 3 * 9),
            ({"pooling": {"kind": "adaptive_3d", "output_frames": 2, "output_side": 2}}, 8),
            ({"pooling": {"kind": "perceiver", "width": 16, "num_queries": 7}}, 7),
        ],
    )
    def test_the_front_is_counted_as_it_is_built(self, options: dict[str, Any], tokens: int) -> None:
        config = VisualConfig.model_validate({"reads": "patches", **options})
        front = VisualFront(config, (4, 16, 12), 20, seed=0)
        assert front_size(config, (4, 16, 12), 20) == (tokens, sum(p.numel() for p in front.parameters()))
        assert front(torch.zeros(1, 4, 16, 12)).shape == (1, tokens, 20)


def vlm_stage(**changes: Any) -> VlmStageConfig:
    values = {"trains": ["connector"], "data": [{"task": "caption"}], "max_length": 100, **changes}
    return VlmStageConfig.model_validate(values)


def llama(depth: int, attention: str = "sdpa") -> Any:
    ensure_torchvision()
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=200,
        tie_word_embeddings=True,
        attn_implementation=attention,
    )
    return transformers.LlamaForCausalLM(config).train()


class TestVlmStages:
    """Width 32, 16 channels of keys, 80 hidden: 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 80 = 10,752 weights a block."""

    P, V = 3 * 10_752, 200
    LANGUAGE = LanguageSize(TransformerSize(3, 32, 80, 40_000, gated=True, kv_dim=16), V)
    PARTS = VlmParts(LANGUAGE, front_params=1000, visual_tokens=68, clip_values=5000)
    DATA = ExpectedData(num_clips=10, captions_per_clip=3, mean_caption_tokens=20)

    def tokens(self, **changes: Any) -> float | None:
        return self.trained_on(vlm_stage(**changes), self.DATA)

    def trained_on(self, stage: VlmStageConfig, data: ExpectedData | None, clips: Sequence[Clip] = ()) -> float | None:
        return stage_tokens(stage, sample_tokens(stage, self.PARTS, data, clips))

    def recipe(self, *stages: VlmStageConfig, **language: Any) -> Recipe:
        section = {
            "language": {"model": "hf:a/b", **language},
            "stages": {f"s{i}": one.model_dump() for i, one in enumerate(stages)},
            "result": "s0",
        }
        encode = {"vision": {"backbone": "hf:facebook/dinov2-small"}, "keep_tokens": True}
        return recipe(align=None, train_vlm=section, encode=encode)

    def test_tokens(self) -> None:
        assert PROMPT_TOKENS == 32  # so a caption's sample is 68 + 32 + 20 = 120 tokens
        assert self.tokens() == 10 * 3 * 120
        assert self.tokens(num_epochs=2) == 2 * 3600
        longest = {"task": "caption", "share": 0.5, "options": {"captions": "longest"}}
        two = {"task": "caption", "options": {"per_clip": 2}}
        assert self.tokens(data=[longest]) == 600 and self.tokens(data=[two]) == 2400
        assert self.tokens(data=[longest, two]) == 3000
        assert self.tokens(data=[{"task": "text"}]) == 10 * 3 * 20  # no clip, no prompt
        assert self.tokens(token_budget=1000) == 1000 and self.tokens(token_budget=10_000) == 3600
        # What the expectation does not count is bounded by the budget alone.
        asked = {"task": "text", "options": {"questions": True}}
        for task in ({"task": "vqa"}, {"task": "caption", "sources": ["a"]}, asked):
            assert self.tokens(data=[task, two]) is None
            assert self.tokens(data=[task, two], token_budget=10_000) == 10_000
        assert self.trained_on(vlm_stage(), None) is None
        # Of clips that are known every task is counted: questions of 9 characters are the prompt, answers 4.
        question = {"question_id": "q", "kind": "open", "question": "who is it", "answer": "yvon", "task": "vqa"}
        known = {"path": "a.mp4", "captions": ["c" * 9], "questions": [question], "attributes": {"part": "a"}}
        clips = [Clip.model_validate({**known, "video_id": f"v{i}"}) for i in range(1000)]
        one, answer = 68 + 32 + 4, 68 + 32 + 2 + 4 / 4.5
        mixed = vlm_stage(data=[{"task": "vqa"}, {"task": "caption", "sources": ["a"]}], token_budget=10**6)
        assert self.trained_on(mixed, None, clips) == pytest.approx(1000 * (one + answer))
        assert self.trained_on(mixed, None, clips[:10]) == pytest.approx(10 * (one + answer))
        elsewhere = vlm_stage(data=[{"task": "caption", "sources": ["b"]}], token_budget=9)
        assert sample_tokens(elsewhere, self.PARTS, None, clips) is None
        assert self.trained_on(elsewhere, None, clips) == 9
        assert self.trained_on(vlm_stage(token_budget=7), None) == 7

    @pytest.mark.parametrize("trains", ["adapters", "language", "reward_head"])
    def test_flops_against_torch(self, trains: str) -> None:
        model = llama(3, "eager")  # whose products torch counts
        embeds = torch.randn(2, 100, 32, requires_grad=trains != "reward_head")
        model.requires_grad_(trains == "language")
        with FlopCounterMode(display=False) as counter:
            if trains == "reward_head":
                model.model(inputs_embeds=embeds)
            else:
                model(inputs_embeds=embeds).logits.sum().backward()
        changes: dict[str, Any] = {"trains": [trains]}
        changes |= {"adapters": {"kind": "lora"}} if trains == "adapters" else {}
        changes |= {"objective": "reward"} if trains == "reward_head" else {}
        without_front = VlmParts(self.LANGUAGE, 0, 68, 5000)
        found = token_flops(vlm_stage(**changes), without_front)
        assert found == pytest.approx(counter.get_total_flops() / 200, rel=1e-6)

    def test_flops_by_hand(self) -> None:
        linear, attention, output = 2 * self.P, 4 * 100 * 32 * 3, 2 * 32 * self.V
        front = 1000 * 68 / 100
        forward = linear + attention + output
        backward = linear + 2 * attention + output
        frozen = token_flops(vlm_stage(), self.PARTS)
        assert frozen == forward + backward + 6 * front
        language = vlm_stage(trains=["connector", "language"])
        assert token_flops(language, self.PARTS) == frozen + linear + output
        checkpointed = vlm_stage(optim={"gradient_checkpointing": True})
        assert token_flops(checkpointed, self.PARTS) == frozen + linear + attention
        dpo = vlm_stage(objective="dpo", trains=["adapters"], adapters={"kind": "lora"})
        assert token_flops(dpo, self.PARTS) == 2 * forward + backward + 2 * front
        reward = vlm_stage(objective="reward", trains=["reward_head"])
        assert token_flops(reward, self.PARTS) == linear + attention + 2 * front

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    @pytest.mark.parametrize("trains", ["connector", "language"])
    def test_what_a_block_keeps_is_what_torch_saves(self, precision: str, trains: str) -> None:
        kept, masks, copies = zip(*(self._saved(depth, precision, trains) for depth in (1, 3)), strict=True)
        per_token = (kept[1] - kept[0]) / 2 / 96
        stage = vlm_stage(trains=[trains], optim={"precision": precision})
        # A float32 scale a norm and sum a head are left out.
        assert per_token - block_bytes(stage, self.PARTS) == 4 * (2 + 4)
        width = 2 if precision == "bfloat16" else 4
        assert (masks[1] - masks[0]) / 2 == 2 * 48**2 * width
        assert (copies[1] - copies[0]) / 2 == (2 * 10_752 if precision == "bfloat16" else 0)

    def _saved(self, depth: int, precision: str, trains: str) -> tuple[int, int, int]:
        """Bytes that torch saves of two rows of 48 tokens: activations, masks, copies of weights."""
        model = llama(depth).requires_grad_(trains == "language")
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
        saved: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        embeds = torch.randn(2, 48, 32, requires_grad=True)
        mask = torch.ones(2, 1, 48, 48, dtype=torch.bool).tril()
        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), half:
            out = model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        found = [0, 0, 0]
        for tensor in saved.values():
            kind = 2 if tuple(tensor.shape) in shapes else 1 if tensor.shape[-2:] == (48, 48) else 0
            found[kind] += tensor.untyped_storage().nbytes()
        del out
        return found[0], found[1], found[2]

    def test_memory_by_hand(self) -> None:
        stage = vlm_stage(optim={"micro_batch_size": 2, "precision": "bfloat16"})
        tokens, width = 200, 2
        weights = 4 * 40_000 + 4 * 1000
        learns = 3 * 4 * 1000  # a gradient and AdamW's two values
        activations = tokens * 3 * (8 * 32 + width * (4 * 32 + 3 * 80))
        masks = 2 * 100**2 * (1 + 3 * width)
        logits = 12 * 0.25 * tokens * self.V
        features = 2 * 4 * 5000 * tokens / 100
        everything = weights + width * self.P + learns + activations + masks + logits + features
        whole = self.recipe(stage)
        assert stage_memory(whole, stage, self.PARTS) == everything
        assert stage_memory(whole, stage, self.PARTS, answers=0.5) == everything + logits
        checkpointed = stage.model_copy(
            update={"optim": stage.optim.model_copy(update={"gradient_checkpointing": True})}
        )
        saved = 2 / 3 * (activations + width * self.P + masks - 2 * 100**2) - tokens * 4 * 32 * 2
        assert stage_memory(whole, checkpointed, self.PARTS) == pytest.approx(everything - saved, abs=1)
        dpo = vlm_stage(objective="dpo", trains=["adapters"], adapters={}, optim=stage.optim)
        pairs = stage.model_copy(update={"optim": stage.optim.model_copy(update={"micro_batch_size": 4})})
        assert stage_memory(whole, dpo, self.PARTS) == stage_memory(whole, pairs, self.PARTS) - learns

    def test_answers_are_counted_beside_all_tokens(self) -> None:
        def share(data: ExpectedData | None, *tasks: dict[str, Any], **changes: Any) -> float:
            stage = vlm_stage(data=list(tasks), **changes)
            return answer_share(stage, sample_tokens(stage, self.PARTS, data))

        caption, text = {"task": "caption"}, {"task": "text"}
        assert share(self.DATA, caption) == share(self.DATA, caption, num_epochs=3) == 20 / 120
        assert share(self.DATA, text) == 1 and share(self.DATA, caption, text) == 40 / 140
        # Where the samples are not known.
        assert share(None, caption) == share(self.DATA, {"task": "vqa"}) == ANSWER_SHARE and share(None, text) == 1
        asked = {"question_id": "q", "kind": "open", "question": "who is it", "answer": "yvon", "task": "vqa"}
        clip = Clip.model_validate({"video_id": "v", "path": "a.mp4", "questions": [asked]})
        vqa = vlm_stage(data=[{"task": "vqa"}])
        answer = 2 + 4 / 4.5
        found = answer_share(vqa, sample_tokens(vqa, self.PARTS, None, [clip]))
        assert found == pytest.approx(answer / (68 + 32 + answer))

    def test_what_learns(self) -> None:
        stages = {
            "connector": (vlm_stage(), 3 * 4000),
            "language": (vlm_stage(trains=["connector", "language"]), 3 * (160_000 + 4000)),
            "embeddings": (vlm_stage(trains=["embeddings"]), 3 * 4 * 200 * 32),
            "lion": (vlm_stage(trains=["language"], optim={"optimizer": "lion"}), 2 * 160_000),
        }
        for stage, expected in stages.values():
            assert learning_bytes(self.recipe(stage), stage, self.PARTS) == expected
        half = self.recipe(vlm_stage(trains=["language"]), dtype="bfloat16")
        assert learning_bytes(half, vlm_stage(trains=["language"]), self.PARTS) == 3 * 80_000
        # Connectors of all stages, language models of those that change them, and two checkpoints of the largest.
        both = self.recipe(stages["connector"][0], stages["language"][0])
        assert vlm_disk(both, self.PARTS) == 2 * 4000 + 160_000 + 2 * 3 * 164_000

    def test_resources(self) -> None:
        stages = vlm_stage(token_budget=2000), vlm_stage(data=[{"task": "vqa"}], trains=["connector", "language"])
        image = image_cost(VisionConfig(backbone="hf:facebook/dinov2-small"))
        section = {
            "language": {"model": "hf:a/b"},
            "visual": {"reads": "patches", "connector": {"kind": "pixel_shuffle", "shuffle_factor": 8}},
            "stages": {"one": stages[0].model_dump(), "two": {**stages[1].model_dump(), "start": "one"}},
        }
        whole = recipe(
            align=None,
            train_vlm=section,
            encode={"vision": {"backbone": "hf:facebook/dinov2-small"}, "keep_tokens": True},
        )
        assert image is not None
        parts = vlm_parts(whole, image, self.LANGUAGE)
        assert (parts.visual_tokens, parts.clip_values) == (4, 256 * 384)
        gpu = GPUS.get("a100")
        found = vlm_resources(whole, self.DATA, Models(image, None, self.LANGUAGE), gpu)
        assert found.gpu_hours is None and found.notes[0] == "4 visual tokens a clip"
        assert "two: tokens and hours unknown (set token_budget), " in found.notes[2]
        both = whole.model_copy(
            update={"train_vlm": whole.train_vlm.model_copy(update={"stages": {"one": stages[0]}})}  # type: ignore[union-attr]
        )
        found = vlm_resources(both, self.DATA, Models(image, None, self.LANGUAGE), gpu)
        seconds = gpu.seconds(2000 * token_flops(stages[0], parts), "float32")
        # 10 clips of 3 captions make 30 * (4 + 32 + 20) = 1680 tokens, less than the budget.
        assert found.gpu_hours == pytest.approx(seconds * 1680 / 2000 / 3600)
        assert found.memory_bytes == stage_memory(both, stages[0], parts, answers=20 / 56)
        for models, words in (
            (Models(None, None, self.LANGUAGE), "the shape of hf:facebook/dinov2-small is unknown"),
            (Models(None, None, None), "the shape of hf:facebook/dinov2-small and hf:a/b is unknown"),
        ):
            unknown = vlm_resources(whole, self.DATA, models, gpu)
            assert unknown.notes == (words,) and unknown.gpu_hours is unknown.memory_bytes is None
