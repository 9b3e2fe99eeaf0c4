"""End-to-end training: the gradients of plain autograd, resumable in the same bytes, and it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.models_fixtures import small_copy
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.config.alignment import AlignConfig
from vlmvid.config.encoders import TextConfig, VisionConfig
from vlmvid.errors import CheckpointError, ConfigError, DatasetError, StageError
from vlmvid.losses import sigmoid_loss
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.text import TextEncoder, load_text_encoder
from vlmvid.training.batches import BatchPlanner
from vlmvid.training.end_to_end import Encoders, EndToEndData, train_end_to_end

NUM_CLIPS, NUM_FRAMES = 7, 2
LORA = {"rank": 2, "alpha": 4.0}
BOTH = {"vision": {**LORA, "use_dora": True}, "text": {**LORA, "dropout": 0.2}}
CAPTIONS = tuple(
    f"{colour} bar {i}" for i, colour in enumerate(["red", "green", "blue", "pink", "grey", "gold", "tan"])
)
Killed = type("Killed", (Exception,), {})


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_copy(tmp_path_factory.mktemp("text"))


@pytest.fixture()
def encoders(text_folder: Path) -> Callable[..., Encoders]:
    def load(vision: bool = True, text: bool = True) -> Encoders:
        backbone = VisionConfig(backbone="timm:test_vit", pretrained=False, image_size=32)
        return Encoders(
            load_vision_backbone(backbone) if vision else None,
            load_text_encoder(TextConfig(encoder=f"hf:{text_folder}")) if text else None,
        )

    return load


def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (NUM_CLIPS, NUM_FRAMES, 3, 32, 32), dtype=np.uint8)


def data_of(**changes: Any) -> EndToEndData:
    values: dict[str, Any] = {
        "video": clips(),
        "texts": CAPTIONS,
        "captions_of": tuple((i, (i + 1) % NUM_CLIPS)[: 1 + i % 2] for i in range(NUM_CLIPS)),
    }
    return EndToEndData(**values | changes)


def config_of(optim: dict[str, Any] | None = None, **changes: Any) -> AlignConfig:
    values: dict[str, Any] = {
        "projection_dim": 8,
        "optim": {"num_steps": 6, "global_batch_size": 5, "lr": 1e-2, **(optim or {})},
        "checkpoint_every": 2,
        "seed": 1,
        "end_to_end": BOTH,
    }
    return AlignConfig.model_validate(values | changes)


def state_of(heads: AlignmentModel, encoders: Encoders) -> dict[str, torch.Tensor]:
    modules = {"heads": heads, **encoders.modules}
    return {f"{side}.{name}": value for side, module in modules.items() for name, value in module.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def jitter(some: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    return some[:, :, :, :, ::-1] if generator.random() < 0.5 else some


@pytest.mark.parametrize("killed_at", [3, 4])
def test_killed_and_resumed_training_gives_the_same_bytes(
    tmp_path: Path, encoders: Callable[..., Encoders], killed_at: int
) -> None:
    # Everything that has a state or draws something.
    config = config_of(
        {"micro_batch_size": 2, "ema_decay": 0.9, "optimizer": "lion", "lr": 1e-3},
        pooling={"kind": "transformer", "width": 8, "depth": 1, "num_heads": 2},
        captions_per_clip=2,
        hard_negatives={"captions": 1, "reversed_clips": 0.4, "shuffled_clips": 0.4},
        loss="info_nce",
        dropout=0.1,
    )
    data = data_of(counterfactuals_of=tuple(((i + 3) % NUM_CLIPS,) for i in range(NUM_CLIPS)))
    whole = encoders()
    expected = state_of(train_end_to_end(config, data, whole, work_dir=tmp_path / "whole", augment=jitter), whole)

    def on_step(step: int, _: dict[str, float]) -> None:
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        train_end_to_end(config, data, encoders(), work_dir=tmp_path / "cut", augment=jitter, on_step=on_step)
    again, steps, saved = encoders(), list[int](), list[int]()
    heads = train_end_to_end(
        config,
        data,
        again,
        work_dir=tmp_path / "cut",
        augment=jitter,
        on_step=lambda step, _: steps.append(step),
        on_checkpoint=saved.append,
    )
    assert_equal(state_of(heads, again), expected)
    assert steps == list(range((killed_at - 1) // 2 * 2 + 1, 7)) and saved == [s for s in (2, 4, 6) if s >= steps[0]]


def test_gradients_are_those_of_the_whole_weights(encoders: Callable[..., Encoders], tmp_path: Path) -> None:
    """At the start B is zero, so B's gradient is alpha / rank times that of the weights times A transposed."""
    config = config_of({"num_steps": 1, "grad_clip_norm": 1e6}, end_to_end={"vision": LORA, "text": LORA})
    data, plain = data_of(), encoders()
    assert plain.vision is not None and plain.text is not None
    weights = {
        "vision": plain.vision.module.get_submodule("blocks.0.attn.qkv").weight,
        "text": plain.text.module.get_submodule("encoder.layer.0.attention.self.query").weight,
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    heads = AlignmentModel(plain.vision.feature_dim, plain.text.embed_dim, NUM_FRAMES, config)
    plan = BatchPlanner(config, data.pairs).at(0)
    rows, captions = plan.clips, plan.texts
    pixels = plain.vision.preprocessing.apply(torch.from_numpy(clips()[rows]).flatten(0, 1))
    tokens = plain.vision.clip_tokens(pixels.reshape(5, NUM_FRAMES, *pixels.shape[1:]), with_grad=True)
    texts = plain.text.features(plain.text.tokenize([CAPTIONS[row] for row in captions]))
    loss = sigmoid_loss(
        heads.embed_video(plain.vision.features(tokens)),
        heads.embed_text(texts),
        logit_scale=heads.logit_scale,
        logit_bias=heads.logit_bias,
        reduction="per_sample",
    )
    loss.backward()  # type: ignore[no-untyped-call]

    trained, found = encoders(), dict[str, tuple[torch.Tensor, torch.Tensor]]()
    losses = []

    def on_step(step: int, report: dict[str, float]) -> None:
        losses.append(report["loss"])
        for side, module in trained.modules.items():
            named = {name: p for name, p in module.named_parameters() if p.requires_grad and p.grad is not None}
            first = "blocks.0.attn.qkv." if side == "vision" else "encoder.layer.0.attention.self.query."
            down = next(p for name, p in named.items() if name.startswith(f"{first}lora_A"))
            up = next(p for name, p in named.items() if name.startswith(f"{first}lora_B"))
            assert up.grad is not None
            found[side] = (down.detach().clone(), up.grad.clone())

    train_end_to_end(config, data, trained, work_dir=tmp_path, on_step=on_step)
    assert losses == pytest.approx([loss.item()], rel=1e-5)
    for side, weight in weights.items():
        down, gradient = found[side]
        assert weight.grad is not None
        # A was moved by its weight decay alone: its own gradient is zero while B is zero.
        start = down / (1 - config.optim.lr * config.optim.weight_decay)
        torch.testing.assert_close(gradient, 2.0 * weight.grad @ start.T, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 5])
def test_micro_batches_have_the_gradients_of_the_whole_batch(
    tmp_path: Path, encoders: Callable[..., Encoders], micro_batch_size: int
) -> None:
    calm = {side: {**LORA, "use_dora": True} for side in ("vision", "text")}
    # The size of a step of AdamW does not follow the gradient's, so its second moment tells more than the weights.
    results = []
    for size in (None, micro_batch_size):
        gradients = dict[str, torch.Tensor]()
        some = encoders()

        def on_step(step: int, _: dict[str, float], some: Encoders = some, found: Any = gradients) -> None:
            for side, module in some.modules.items():
                found |= {
                    f"{side}.{name}": p.grad.clone() for name, p in module.named_parameters() if p.grad is not None
                }

        optim = {"num_steps": 1, "micro_batch_size": size}
        train_end_to_end(
            config_of(optim, end_to_end=calm), data_of(), some, work_dir=tmp_path / str(size), on_step=on_step
        )
        results.append(gradients)
    assert results[0].keys() == results[1].keys() and any("lora_B" in name for name in results[0])
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("side", ["vision", "text", "both"])
def test_it_learns_and_changes_only_what_was_asked_for(
    tmp_path: Path, encoders: Callable[..., Encoders], side: str
) -> None:
    wanted = {"vision": side != "text", "text": side != "vision"}
    config = config_of(
        {"num_steps": 25, "global_batch_size": 7}, end_to_end={name: LORA for name, is_on in wanted.items() if is_on}
    )
    whole, some = encoders(), encoders(**wanted)
    assert whole.vision is not None and whole.text is not None
    data = data_of(
        video=clips() if wanted["vision"] else whole.vision.encode_clips(clips())["mean"],
        texts=CAPTIONS if wanted["text"] else whole.text.encode(CAPTIONS),
        captions_of=tuple((i,) for i in range(NUM_CLIPS)),
    )
    losses = list[float]()
    heads = train_end_to_end(
        config, data, some, work_dir=tmp_path, on_step=lambda _, report: losses.append(report["loss"])
    )
    assert losses[-1] < 0.6 * losses[0] and not heads.training
    for name, module in some.modules.items():
        before = whole.modules[name].state_dict()
        changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
        assert changed and all(
            key.endswith(("qkv.weight", "proj.weight", "query.weight", "key.weight", "value.weight")) for key in changed
        )
    if some.vision is not None:
        assert some.vision.encode_clips(clips())["mean"].shape == (NUM_CLIPS, NUM_FRAMES, some.vision.feature_dim)


def test_patch_tokens_reach_a_pooling_over_them(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    some = encoders(text=False)
    config = config_of(pooling={"kind": "stc", "width": 8}, end_to_end={"vision": LORA})
    texts = np.random.default_rng(1).standard_normal((NUM_CLIPS, 6)).astype(np.float32)
    heads = train_end_to_end(config, data_of(texts=texts), some, work_dir=tmp_path)
    assert some.vision is not None and heads.video_dim == some.vision.token_dim


def test_clips_may_lie_on_disk(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    shards = [clips()[:4], clips()[4:]]
    numbers, places = np.array([0] * 4 + [1] * 3), np.array([0, 1, 2, 3, 0, 1, 2])
    column = StoredColumn(lambda i: shards[i], numbers, places, name="frames")
    held, read = encoders(), encoders()
    expected = train_end_to_end(config_of(), data_of(), held, work_dir=tmp_path / "held")
    heads = train_end_to_end(config_of(), data_of(video=column), read, work_dir=tmp_path / "read")
    assert_equal(state_of(heads, read), state_of(expected, held))


def test_another_config_encoder_or_data_is_not_resumed(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    train_end_to_end(config_of({"num_steps": 2}), data_of(), encoders(), work_dir=tmp_path)
    other = encoders()
    assert other.text is not None
    with torch.no_grad():
        next(iter(other.text.module.parameters())).add_(1.0)
    for config, data, some in (
        (config_of({"num_steps": 3}), data_of(), encoders()),
        (config_of({"num_steps": 2}), data_of(video=clips()[::-1]), encoders()),
        (config_of({"num_steps": 2}), data_of(texts=CAPTIONS[::-1]), encoders()),
        (config_of({"num_steps": 2}), data_of(), other),
    ):
        with pytest.raises(CheckpointError, match="step 2 is of another training"):
            train_end_to_end(config, data, some, work_dir=tmp_path)


def test_sides_that_do_not_fit_the_config_are_refused(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    features = np.zeros((NUM_CLIPS, NUM_FRAMES, 4), np.float32)
    for config, data, some, words in (
        (config_of(end_to_end=None), data_of(), encoders(), "end_to_end is not set, so no encoder learns"),
        (config_of(), data_of(video=features), encoders(), r"vision is set: give the vision encoder, and clips, uint8"),
        (config_of(), data_of(), encoders(text=False), "text is set: give the text encoder, and captions"),
        (config_of(end_to_end={"text": LORA}), data_of(), encoders(), "vision is not set: give the features"),
    ):
        with pytest.raises(ConfigError, match=words):
            train_end_to_end(config, data, some, work_dir=tmp_path)
    with pytest.raises(DatasetError, match=r"clips must be uint8 \(N, T, 3, H, W\)"):
        data_of(video=clips()[:, :, 0])
    with pytest.raises(DatasetError, match="2 clips have no caption"):
        data_of(captions_of=((),) * 2 + ((0,),) * 5)


def test_divergence_stops_training(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    some = encoders(text=False)
    texts = np.ones((NUM_CLIPS, 6), np.float32)
    assert some.vision is not None
    with torch.no_grad():
        next(iter(some.vision.module.parameters())).fill_(float("nan"))
    with pytest.raises(
        StageError, match=r"diverged at update 1.*The batch held row \d.*last checkpoint: there is none"
    ):
        train_end_to_end(config_of(end_to_end={"vision": LORA}), data_of(texts=texts), some, work_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_end_to_end_does_not_read_is_refused() -> None:
    for changes, words in (
        ({"auxiliary": [{"kind": "frame_order", "weight": 0.1}]}, "auxiliary"),
        ({"early_stopping": {}}, "early_stopping"),
    ):
        with pytest.raises(ValueError, match=f"end_to_end does not go with {words}"):
            config_of(**changes)
    with pytest.raises(ValueError, match="does not go with optim.precision=float16"):
        config_of({"precision": "float16"})


def test_the_averaged_weights_are_the_result(tmp_path: Path, encoders: Callable[..., Encoders]) -> None:
    texts = np.random.default_rng(1).standard_normal((NUM_CLIPS, 6)).astype(np.float32)
    start, steps = encoders(text=False), {}
    for decay in (None, 0.999):
        config = config_of({"num_steps": 3, "ema_decay": decay}, end_to_end={"vision": LORA})
        some = encoders(text=False)
        train_end_to_end(config, data_of(texts=texts), some, work_dir=tmp_path / str(decay))
        before, after = start.modules["vision"].state_dict(), some.modules["vision"].state_dict()
        steps[decay] = {
            name: (after[name] - before[name]).norm().item() for name in after if name.endswith("qkv.weight")
        }
    assert all(0 < steps[0.999][name] < steps[None][name] for name in steps[None])


def test_the_config_names_at_least_one_encoder() -> None:
    with pytest.raises(ValueError, match="end_to_end names no encoder"):
        config_of(end_to_end={})


def test_encoders_know_their_modules(encoders: Callable[..., Encoders]) -> None:
    some = encoders(vision=False)
    assert isinstance(some.text, TextEncoder) and list(some.modules) == ["text"]
