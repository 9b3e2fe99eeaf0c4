from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.test_models_video import vit
from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import PoolingConfig, VideoConfig
from vlmvid.errors import ConfigError, DatasetError, StageError
from vlmvid.models.backbones.base import Preprocessing
from vlmvid.models.video.encoder import VideoEncoder, build_video_encoder, image_model_of
from vlmvid.training.video_encoder import VideoTrainingData, train_video_encoder

PREPROCESSING = Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
NUM_CLASSES = 4


def config(num_steps: int = 4, batch_size: int = 8, **options: object) -> AlignConfig:
    optim = OptimConfig(num_steps=num_steps, global_batch_size=batch_size, lr=3e-3)
    return AlignConfig.model_validate({"optim": optim, "projection_dim": 8, **options})


def data(num_clips: int = 16, num_frames: int = 4) -> VideoTrainingData:
    """Clips of one grey level each; clips and captions of a class share it."""
    levels = np.arange(num_clips) % NUM_CLASSES
    clips = np.broadcast_to((levels * 60)[:, None, None, None, None], (num_clips, num_frames, 3, 16, 16))
    texts = np.random.default_rng(0).normal(size=(NUM_CLASSES, 6)).astype(np.float32)
    return VideoTrainingData(clips.astype(np.uint8), texts, tuple((int(level),) for level in levels))


def encoder(kind: str = "divided", num_frames: int = 4, **options: object) -> VideoEncoder:
    return build_video_encoder(VideoConfig.model_validate({"kind": kind, **options}), vit(), num_frames, seed=0)


@pytest.mark.parametrize("kind", ["divided", "joint"])
@pytest.mark.parametrize("keep_fraction", [1.0, 0.5])
def test_the_same_arguments_give_the_same_bytes(kind: str, keep_fraction: float) -> None:
    first, second = (
        train_video_encoder(encoder(kind), config(), data(), PREPROCESSING, keep_fraction=keep_fraction)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[1], second[1])
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, second[0].state_dict()[name]), name


def test_dropped_tokens_change_the_losses_and_the_seed_decides_which() -> None:
    clips = np.random.default_rng(1).integers(0, 256, (16, 4, 3, 16, 16), dtype=np.uint8)
    values = VideoTrainingData(clips, data().text_features, data().captions_of)
    runs = [
        train_video_encoder(encoder(), config(num_steps=1, **seed), values, PREPROCESSING, keep_fraction=keep)[1][0]
        for keep, seed in [(1.0, {}), (0.5, {}), (0.5, {"seed": 1})]
    ]
    assert len({round(loss, 6) for loss in runs}) == 3


@pytest.mark.parametrize("kind", ["frames", "st_adapter"])
def test_training_learns_and_leaves_frozen_weights_alone(kind: str) -> None:
    model = encoder(kind, time_embedding="none")
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    seen: list[int] = []
    trained, losses = train_video_encoder(
        model, config(num_steps=60, batch_size=4), data(4), PREPROCESSING, on_step=lambda step, loss: seen.append(step)
    )
    assert seen == list(range(1, 61)) and losses.shape == (60,)
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert trained.encoder is model and not trained.training
    assert bool(frozen) == (kind == "st_adapter")
    assert all(torch.equal(dict(model.named_parameters())[name], tensor) for name, tensor in frozen.items())
    values = data(4)
    similarity = trained.embed_texts(values.text_features) @ trained.embed_clips(values.clips, batch_size=3).T
    assert (similarity.argmax(axis=1) == np.arange(NUM_CLASSES)).all()


def test_an_image_encoder_is_trained_on_single_frames_and_starts_a_video_encoder() -> None:
    images = encoder("frames", num_frames=1, time_embedding="none")
    trained, _ = train_video_encoder(images, config(), data(num_frames=1), PREPROCESSING)
    image = image_model_of(images)
    pixels = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained.encoder(pixels)
        torch.testing.assert_close(image.forward_features(pixels[:, 0])[:, None], expected, rtol=1e-5, atol=1e-5)
        video = build_video_encoder(VideoConfig(), image, 3, seed=0)
        tokens = video(pixels.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(tokens, expected.expand(-1, 3, -1, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"kind": "frames"}, {"kind": "frames", "tubelet_size": 2, "time_embedding": "none"}]
)
def test_only_a_plain_frame_encoder_is_an_image_model(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected 'frames', 1 and 'none'"):
        image_model_of(encoder(**options))  # type: ignore[arg-type]


def test_a_pooling_of_tokens_gets_the_patch_tokens() -> None:
    pooling = PoolingConfig(kind="attentive", width=8, num_heads=2)
    trained, losses = train_video_encoder(encoder(), config(pooling=pooling), data(), PREPROCESSING)
    assert np.isfinite(losses).all() and trained.embed_clips(data().clips).shape == (16, 8)


def test_a_grid_keeps_places() -> None:
    trained, _ = train_video_encoder(encoder(), config(num_steps=1), data(), PREPROCESSING, grid_size=2)
    clips = np.random.default_rng(1).integers(0, 256, (3, 4, 3, 16, 16), dtype=np.uint8)
    pixels = PREPROCESSING.apply(torch.from_numpy(clips).flatten(0, 1)).unflatten(0, (3, 4))
    with torch.no_grad():
        patches = trained.encoder(pixels)[:, :, 1:]
        # 2 x 2 patches fill 2 x 2 cells: nothing is averaged.
        expected = trained.heads.embed_video(patches.flatten(2)).numpy()
    np.testing.assert_allclose(trained.embed_clips(clips), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="grid_size=3 does not fit"):
        train_video_encoder(encoder(), config(), data(), PREPROCESSING, grid_size=3)
    with pytest.raises(ConfigError, match="needs every patch"):
        train_video_encoder(encoder(), config(), data(), PREPROCESSING, grid_size=2, keep_fraction=0.5)


def test_bad_input_is_refused() -> None:
    good = data()
    with pytest.raises(DatasetError, match=r"uint8 \(N, T, 3, H, W\)"):
        VideoTrainingData(good.clips[:, 0], good.text_features, good.captions_of)
    with pytest.raises(DatasetError, match="1 clips have no caption"):
        VideoTrainingData(good.clips, good.text_features, ((), *good.captions_of[1:]))
    with pytest.raises(ConfigError, match="keep_fraction must be above 0"):
        train_video_encoder(encoder(), config(), good, PREPROCESSING, keep_fraction=0.0)
    with pytest.raises(ConfigError, match="no multiple of tubelet_size=2"):
        train_video_encoder(encoder(tubelet_size=2), config(), data(num_frames=3), PREPROCESSING)
    for changes in ({"captions_per_clip": 2}, {"optim": OptimConfig(num_steps=4, global_batch_size=4, ema_decay=0.9)}):
        with pytest.raises(ConfigError, match="training a video encoder does not read"):
            train_video_encoder(encoder(), config().model_copy(update=changes), good, PREPROCESSING)
    broken = encoder()
    with torch.no_grad():
        broken.embed.weight.fill_(float("nan"))
    with pytest.raises(StageError, match="diverged at update 1 of 4"):
        train_video_encoder(broken, config(), good, PREPROCESSING)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fixed_image_part_is_computed_once_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    clips = np.random.default_rng(seed).integers(0, 256, (10, 4, 3, 16, 16), dtype=np.uint8)
    values = VideoTrainingData(clips, data().text_features, data(10).captions_of)
    computed: list[int] = []
    original = VideoEncoder.image_tokens

    def counted(self: VideoEncoder, pixels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        computed.append(len(pixels))
        return original(self, pixels, keep)

    monkeypatch.setattr(VideoEncoder, "image_tokens", counted)

    def train() -> tuple[dict[str, torch.Tensor], np.ndarray]:
        model = encoder("factorised", freeze_space=True)
        trained, losses = train_video_encoder(model, config(num_steps=6, seed=seed), values, PREPROCESSING)
        return trained.state_dict(), losses

    once = train()
    assert computed == [10]
    monkeypatch.setattr(VideoEncoder, "is_image_part_fixed", False)
    always = train()
    assert computed == [10, *[8] * 6]
    np.testing.assert_allclose(once[1], always[1], rtol=1e-5)
    for name, tensor in once[0].items():
        torch.testing.assert_close(tensor, always[0][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("factorised", {}), ("divided", {"freeze_space": True}), ("aim", {}), ("factorised", {"tubelet_size": 2})],
)
def test_an_image_part_that_is_trained_is_not_fixed(kind: str, options: dict[str, object]) -> None:
    assert not encoder(kind, **options).is_image_part_fixed
