"""Does a video encoder gain from starting as an image encoder? One JSON document from real runs.

    python -m benchmarks.image_initialisation --out benchmarks/image_initialisation.json --home FOLDER

The drawn world gives clips and captions. A small image ViT is trained once on single frames of all of them; then, per
seed, the same video encoder is trained from it and from random weights on fewer clips, with the same steps, clips
and captions. Both are evaluated on the test gallery, whose combinations no training clip has. FOLDER keeps the image
encoder, which is the backbone ``video:FOLDER/image``; an image encoder that is there is not trained again. The exit
code is 1 when the intervals of the two starts meet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.quickstart import over_seeds
from vlmvid.config.alignment import AlignConfig
from vlmvid.config.encoders import VideoConfig
from vlmvid.config.load import read_recipe_dict, validate
from vlmvid.config.schema import EvaluateConfig
from vlmvid.config.video_training import VideoTrainingConfig, ViTConfig
from vlmvid.data.synthetic.draw import render
from vlmvid.data.synthetic.gallery import PlannedClip, test_clips, training_clips
from vlmvid.data.synthetic.language import Knobs, full_caption, training_captions
from vlmvid.evaluation.base import EvaluationData
from vlmvid.evaluation.tasks import retrieval, temporal
from vlmvid.models.backbones.base import Preprocessing
from vlmvid.models.backbones.video_backbone import load_video_encoder, save_video_encoder
from vlmvid.models.runtime import limit_threads, seeded
from vlmvid.models.text import load_text_encoder
from vlmvid.models.torchvision_compat import ensure_torchvision
from vlmvid.models.video.encoder import VideoEncoder, build_video_encoder, image_model_of
from vlmvid.training.video_encoder import ContrastiveEncoder, VideoTrainingData, train_video_encoder
from vlmvid.types import Clip
from vlmvid.video.sampling import uniform_indices

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "encode" / "tiny_vit.yaml"
METRICS = ("t2v_r_at_1", "v2t_r_at_1", "t2v_r_at_5", "temporal_pair_accuracy")
# What must differ between the two starts.
PROOFS = ("t2v_r_at_1", "v2t_r_at_1", "temporal_pair_accuracy")
STARTS = ("image", "random")
Frames = NDArray[np.uint8]


def load(path: Path) -> VideoTrainingConfig:
    return validate(VideoTrainingConfig, read_recipe_dict(path), source=str(path))


def planned_clips(config: VideoTrainingConfig) -> tuple[list[PlannedClip], dict[int, list[PlannedClip]]]:
    """The training clips, and a test gallery of its own for each seed: their errors are then independent."""
    world = config.world
    train = list(training_clips(world.seed, world.num_train, world.num_temporal_pairs))
    return train, {seed: list(test_clips(world.seed + seed, world.num_test_bases)) for seed in config.seeds}


def draw(clips: Sequence[PlannedClip], config: VideoTrainingConfig) -> Frames:
    """Sampled frames of every clip, uint8 (N, T, 3, H, W)."""
    chosen = uniform_indices(config.world.num_frames, config.num_frames)
    size, num_frames = config.vit.image_size, config.world.num_frames
    return np.stack([render(clip.scene, image_size=size, num_frames=num_frames)[chosen] for clip in clips])


def random_vit(config: ViTConfig, seed: int) -> nn.Module:
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    with seeded(seed):
        model: nn.Module = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            num_classes=0,
        )
    return model


def preprocessing_of(config: ViTConfig) -> Preprocessing:
    return Preprocessing(config.image_size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic")


class Experiment:
    """The data of a config, and what is trained on it."""

    def __init__(self, config: VideoTrainingConfig, home: Path) -> None:
        self.config, self.home = config, home
        home.mkdir(parents=True, exist_ok=True)
        self.preprocessing = preprocessing_of(config.vit)
        train, self.test = planned_clips(config)
        self.train_frames = draw(train, config)
        self.test_frames = {seed: draw(clips, config) for seed, clips in self.test.items()}
        # Nine per clip, some of them about the motion alone; the test asks for full captions.
        seed = config.world.seed
        of_train = [training_captions(clip.scene, seed=seed, index=clip.number, knobs=Knobs()) for clip in train]
        own = {caption for captions in of_train for caption in captions}
        self.captions = sorted(own | {full_caption(clip.scene) for clips in self.test.values() for clip in clips})
        row = {caption: index for index, caption in enumerate(self.captions)}
        self.captions_of = tuple(tuple(row[caption] for caption in captions) for captions in of_train)
        self.text_features = load_text_encoder(config.text).encode(self.captions)

    def image_encoder(self) -> VideoEncoder:
        """The image encoder of the config, trained once and kept."""
        folder = self.home / "image"
        if (folder / "video.safetensors").is_file():
            return load_video_encoder(folder)[0]
        config = self.config
        frames_config = VideoConfig(kind="frames", time_embedding="none")
        encoder = build_video_encoder(frames_config, random_vit(config.vit, config.image_training.seed), 1, seed=0)
        # Every sampled frame is a picture with its clip's caption.
        pictures = self.train_frames.reshape(-1, 1, *self.train_frames.shape[2:])
        captions_of = tuple(own for own in self.captions_of for _ in range(config.num_frames))
        data = VideoTrainingData(pictures, self.text_features, captions_of)
        train_video_encoder(encoder, config.image_training, data, self.preprocessing, on_step=progress("image"))
        save_video_encoder(encoder, self.preprocessing, folder)
        return encoder.eval()

    def run(self, start: str, seed: int) -> dict[str, Any]:
        """Train one video encoder and evaluate it."""
        config = self.config
        began = time.perf_counter()
        image = image_model_of(self.image_encoder()) if start == "image" else random_vit(config.vit, 1000 + seed)
        encoder = build_video_encoder(config.video, image, config.num_frames, seed)
        training: AlignConfig = config.video_training.model_copy(update={"seed": seed})
        last = slice(-config.num_videos, None)
        data = VideoTrainingData(self.train_frames[last], self.text_features, self.captions_of[last])
        model, losses = train_video_encoder(
            encoder, training, data, self.preprocessing, keep_fraction=config.keep_fraction,
            grid_size=config.grid_size,
            on_step=progress(f"{start}, seed {seed}"),
        )  # fmt: skip
        tenth = max(1, len(losses) // 10)
        return {
            "start": start,
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 1),
            "loss_first": round(float(losses[:tenth].mean()), 4),
            "loss_last": round(float(losses[-tenth:].mean()), 4),
            "metrics": self.evaluate(model, seed),
        }

    def evaluate(self, model: ContrastiveEncoder, seed: int) -> dict[str, Any]:
        """Retrieval and temporal pairs on the test gallery, by metric name."""
        embeds = model.embed_texts(self.text_features)
        row = {caption: index for index, caption in enumerate(self.captions)}
        clips = tuple(
            Clip(
                video_id=clip.video_id, path=clip.video_id, split="test", captions=(full_caption(clip.scene),),
                attributes=clip.attributes(),
            )
            for clip in self.test[seed]
        )  # fmt: skip
        frames = self.test_frames[seed]
        data = EvaluationData(clips, model.embed_clips(frames), lambda texts: embeds[[row[t] for t in texts]])
        asked = EvaluateConfig(tasks=("retrieval", "temporal"), seed=seed)
        metrics = [*retrieval.run(data, asked).metrics, *temporal.run(data, asked).metrics]
        return {metric.name: metric.to_json() for metric in metrics}


def progress(name: str) -> Any:
    def show(step: int, loss: float) -> None:
        if step % 20 == 0:
            sys.stderr.write(f"{name}: update {step}, loss {loss:.3f}\n")

    return show


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per metric: mean and interval of both starts, chance, and whether the intervals are apart."""
    table: dict[str, Any] = {}
    for name in METRICS:
        by_start = {start: [run["metrics"][name] for run in runs if run["start"] == start] for start in STARTS}
        values = {start: over_seeds(metrics) for start, metrics in by_start.items()}
        apart = values["image"]["ci_low"] > values["random"]["ci_high"]
        chance = runs[0]["metrics"][f"{name}/chance"]["value"]
        table[name] = {**values, "chance": round(chance, 5), "apart": apart}
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--num-threads", type=int)
    arguments = parser.parse_args()
    limit_threads(arguments.num_threads)
    config = load(arguments.config)
    began = time.perf_counter()
    experiment = Experiment(config, arguments.home)
    experiment.image_encoder()
    image_seconds = time.perf_counter() - began
    runs: list[dict[str, Any]] = []
    for seed in config.seeds:
        for start in STARTS:
            runs.append(experiment.run(start, seed))
            sys.stderr.write(f"{start}, seed {seed}: { {n: runs[-1]['metrics'][n]['value'] for n in METRICS} }\n")
    table = summary(runs)
    document = {
        "protocol": (
            f"{len(config.seeds)} seeds of the video encoder's training, each with a gallery of its own: "
            f"{len(experiment.test[config.seeds[0]])} test clips whose combinations are not in training; 95 % "
            "intervals over seeds and clips"
        ),
        "config": config.model_dump(mode="json"),
        "num_threads": torch.get_num_threads(),
        "seconds_data_and_image_encoder": round(image_seconds, 1),
        "summary": table,
        "runs": [{**run, "metrics": {n: run["metrics"][n]["value"] for n in METRICS}} for run in runs],
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all(table[name]["apart"] for name in PROOFS) else 1


if __name__ == "__main__":
    sys.exit(main())
