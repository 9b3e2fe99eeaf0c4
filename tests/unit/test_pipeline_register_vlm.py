"""Registering what the train_vlm stage made: the registered model says of a file what the stored features gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import RECIPE, write_dataset
from tests.unit.pipeline_fixtures import request_for, run
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.artifacts.digests import sha256_file
from vlmvid.data.instructions import CAPTION_PROMPTS, caption_request
from vlmvid.evaluation.runner import read_results
from vlmvid.models.vlm.chat import encode_conversation
from vlmvid.models.vlm.generation import generate
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.promotion import PromotionRequest, promote
from vlmvid.pipeline.register import read_registered
from vlmvid.pipeline.train_vlm import result_model
from vlmvid.pipeline.vlm_data import stored_media
from vlmvid.serving.load import load
from vlmvid.serving.speaker import Ranking
from vlmvid.tracking.registry import open_registry

SCRATCH = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 340}
STAGE: dict[str, Any] = {
    "data": [{"task": "caption"}],
    "trains": ["connector", "language"],
    "max_length": 128,
    "num_epochs": 30,
    "optim": {"lr": 0.01, "global_batch_size": 2},
}
TRAIN_VLM = {
    "language": {"model": "scratch", "scratch": {**SCRATCH, "max_positions": 128}},
    "visual": {"connector": {"kind": "linear"}, "timestamps": True},
    "stages": {"only": STAGE},
}


@pytest.mark.parametrize("align", [False, True])
def test_a_file_gets_the_caption_of_its_stored_features(tmp_path: Path, home: Path, align: bool) -> None:
    fresh_home(home)
    encode = {"vision": RECIPE["encode"]["vision"], "dtype": "float16", "keep_times": True}
    request = request_for(
        tmp_path,
        home,
        write_dataset(tmp_path),
        encode={**encode, "text": RECIPE["encode"]["text"]} if align else encode,
        align=RECIPE["align"] if align else None,
        train_vlm=TRAIN_VLM,
        evaluate=None if align else {"tasks": ["concepts"], "vlm": {"rank_by": "mean", "with_choices": True}},
        register={"model_name": "words"},
        tracking={"enabled": True},
    )
    refs = run(request)
    known = read_registered(Path(refs["register"].uri))
    assert known["gap"] == "" and known["alias_uri"] == "models:/words@candidate"
    model = load(str(known["alias_uri"]), device="cpu")
    assert model.info["caption_prompt"] == CAPTION_PROMPTS[0]
    assert model.speaker.ranking == Ranking(rank_by="sum" if align else "mean", with_choices=not align)

    context = open_context(request)
    media, whole = stored_media(context), result_model(context)
    requests = [caption_request(clip.video_id, seconds=media.seconds_of(clip.video_id)) for clip in media.clips]
    samples = [encode_conversation(whole.tokenizer, one, whole.visual, for_generation=True) for one in requests]
    stored = [answer.text for answer in generate(whole, samples, media)]
    assert model.caption([clip.path for clip in media.clips]) == stored
    assert any(stored), "the model says nothing"
    if align:
        assert model.encode_text(["a box"]).shape == (1, 16)

    client = client_of(home)
    tags = client.get_model_version("words", "1").tags
    assert ("vlmvid.align_key" in tags) == align and tags["vlmvid.train_vlm_key"] == context.keys.key("train_vlm")
    assert tags["vlmvid.kind"] == ("dual_encoder_and_vlm" if align else "vlm")
    assert tags["vlmvid.language_digest"] == context.keys.language_digest
    assert tags["vlmvid.vision_digest"] == context.keys.vision_digest and ("vlmvid.text_digest" in tags) == align
    assert tags["vlmvid.dataset_digest"] == context.keys.key("ingest") and len(tags["vlmvid.code_digest"]) == 24
    assert tags["vlmvid.model_digest"] == sha256_file(Path(str(known["model_folder"])) / "model.json")
    found = client.search_runs([some.experiment_id for some in client.search_experiments()])
    by_name = {some.info.run_name: some for some in found}
    assert ("vlmvid.evaluation" in tags) == (not align)
    if not align:
        assert tags["vlmvid.evaluation_runs"] == by_name["evaluate"].info.run_id
        registered = open_registry(f"sqlite:///{home / 'mlflow.db'}")
        evaluation = registered.evaluation(registered.version("words", "candidate"), tmp_path / "fetched")
        (result,) = read_results(evaluation)
        metric = f"{result.task}/{result.metrics[0].name}"
        (tmp_path / "gates.yaml").write_text(
            f"{{kind: vlm, thresholds: [{{metric: {metric}, threshold: {result.metrics[0].value}, part: value, "
            f"min_samples: 1}}]}}"
        )
        asked = PromotionRequest(model_name="words", gates=str(tmp_path / "gates.yaml"), home=str(home))
        promoted = promote(asked)
        assert promoted.promoted and promoted.verdicts[0].metric == metric == f"concepts/{result.metrics[0].name}"
        assert load("models:/words@champion", device="cpu").info == model.info
    part = by_name["train_vlm/only"]
    assert part.info.status == "FINISHED"
    assert part.data.tags["mlflow.parentRunId"] == by_name["train_vlm"].info.run_id
