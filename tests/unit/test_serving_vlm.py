"""A served vision-language model: the same features as in training, one text per question, resumable batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import COLOURS, write_clip, write_recipe, write_rows
from tests.unit.pipeline_fixtures import NO_TRACKING, index_of, run
from tests.unit.test_serving_load import DECODE, tiny_bert
from tests.unit.tracking_fixtures import fresh_home, open_home
from tests.unit.vlm_fixtures import tiny_vlm
from vlmvid.cli import main
from vlmvid.config.alignment import AlignConfig, OptimConfig
from vlmvid.config.encoders import TextConfig, TilingConfig, VisionConfig
from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.config.vlm import ConnectorConfig, VisualConfig
from vlmvid.errors import ArtifactError, ConfigError, DecodeError
from vlmvid.evaluation.scoring.predictions import read_predictions
from vlmvid.models.alignment import AlignmentModel, save_alignment
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.clip_encoder import encode_clips
from vlmvid.models.saving import save_text, save_vision
from vlmvid.models.text import load_text_encoder
from vlmvid.models.vlm.chat import encode_conversation
from vlmvid.models.vlm.generation import GenerationSettings, generate, rank_answers
from vlmvid.models.vlm.layout import collate
from vlmvid.models.vlm.model import VisionLanguageModel
from vlmvid.models.vlm.reward import RewardHead, best_of_n, load_reward, save_reward
from vlmvid.models.vlm.saving import load_vlm, save_vlm
from vlmvid.pipeline import make_request
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.encode import read_features, read_patches, read_times, vision_backbone
from vlmvid.serving.load import load
from vlmvid.serving.model_folder import MANIFEST, Part, write_model_folder
from vlmvid.serving.visual_features import StoredAs, VisualFeatures
from vlmvid.tracking import Registration
from vlmvid.types import Conversation, Message, Visual
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.options import ClipJob

SHORT = GenerationSettings(max_new_tokens=16)
PROMPT, COLOUR = "Describe it.", "what colour?"
SHOWN = {"red": "a red box moves", "green": "a green box", "blue": "the blue circle stands still"}
STORED = StoredAs(dtype="float16")
INFO = {"recipe": "tiny", "caption_prompt": PROMPT}


@cache
def parts() -> Path:
    """Folders of a backbone, a vision-language model, a text encoder and an alignment; random weights."""
    root = Path(mkdtemp(prefix="vlmvid-speaker-"))
    vision = backbone()
    save_vision(vision, root / "vision")
    visual = VisualConfig(connector=ConnectorConfig(kind="linear"), timestamps=True)
    model = tiny_vlm(visual=visual, shape=(DECODE.sampling.num_frames, vision.feature_dim))
    save_vlm(taught(model), root / "vlm")
    head = RewardHead(model.visual.output_dim)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(3))
    save_vlm(model, root / "reward")
    save_reward(head, root / "reward")
    text = load_text_encoder(TextConfig(encoder=f"hf:{tiny_bert(root / 'bert')}", max_length=16), "cpu")
    save_text(text, root / "text")
    config = AlignConfig(projection_dim=8, optim=OptimConfig(num_steps=1, global_batch_size=2))
    save_alignment(AlignmentModel(vision.feature_dim, text.encode(["a"]).shape[1], 3, config), root / "alignment")
    return root


@cache
def folder_with(*names: Part) -> Path:
    folder = parts() / "-".join(names)
    write_model_folder(folder, parts={name: parts() / name for name in names}, decode=DECODE, stored=STORED, info=INFO)
    return folder


@cache
def speaking() -> Any:
    return load(folder_with("vision", "vlm"), device="cpu")


@cache
def videos() -> tuple[str, ...]:
    folder = Path(mkdtemp(prefix="vlmvid-clips-"))
    return tuple(str(write_clip(folder / f"{name}.mp4", COLOURS[name], shift=i)) for i, name in enumerate(SHOWN))


@pytest.fixture
def clips() -> list[str]:
    return list(videos())


@cache
def backbone() -> FrozenBackbone:
    return load_vision_backbone(VisionConfig(backbone="timm:test_vit", pretrained=False), "cpu")


@cache
def seen(clip: str) -> tuple[torch.Tensor, tuple[float, ...]]:
    """Features and times of a file, by hand: float16, as the store would have kept them."""
    frames = decode_clip(ClipJob(clip), DECODE)
    values = encode_clips(backbone(), frames.frames[None])["mean"].astype(np.float16).astype(np.float32)
    return torch.from_numpy(values), tuple(map(float, frames.pts_seconds.astype(np.float32)))


def asked(clip: str, question: str, answer: str | None = None) -> Conversation:
    said = () if answer is None else (Message("assistant", (answer,)),)
    return Conversation(clip, (Message("user", (Visual(clip, seen(clip)[1]), question)), *said))


def features(names: Sequence[str]) -> torch.Tensor:
    return torch.cat([seen(name)[0] for name in names])


def taught(model: VisionLanguageModel) -> VisionLanguageModel:
    """The model after it has learnt three captions and colours by heart."""
    pairs = [(clip, PROMPT, caption) for clip, caption in zip(videos(), SHOWN.values(), strict=True)]
    pairs += [(clip, COLOUR, name) for clip, name in zip(videos(), SHOWN, strict=True)]
    samples = [encode_conversation(model.tokenizer, asked(*pair), model.visual) for pair in pairs]
    batch = collate([[sample] for sample in samples], pad_id=model.pad_id)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss, count = model.answer_loss(batch, features(batch.media))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    return model


def expected(clip: str, question: str, settings: GenerationSettings = SHORT) -> str:
    """What the saved model says of features that are made by hand."""
    model = load_vlm(parts() / "vlm").eval()
    sample = encode_conversation(model.tokenizer, asked(clip, question), model.visual, for_generation=True)
    return generate(model, [sample], features, settings)[0].text


def test_one_text_for_one_video_and_a_list_for_several(clips: list[str]) -> None:
    model = speaking()
    captions = model.caption(clips, SHORT)
    assert captions == [expected(clip, PROMPT) for clip in clips] == list(SHOWN.values())
    assert model.answer(clips, COLOUR, SHORT) == list(SHOWN)
    assert model.caption(clips[0], SHORT) == captions[0] == model.answer(Path(clips[0]), PROMPT, SHORT)
    questions = ["what colour is the box?", "what moves?"]
    assert model.answer(clips[0], questions, SHORT) == [expected(clips[0], q) for q in questions]
    assert model.answer(clips[:2], questions[0], SHORT) == [expected(clip, questions[0]) for clip in clips[:2]]
    both = model.answer(clips[:2], questions, SHORT)
    assert both == [expected(*pair) for pair in zip(clips[:2], questions, strict=True)]
    assert "".join(model.stream_answer(clips[0], questions[0], SHORT)) == model.answer(clips[0], questions[0], SHORT)
    assert model.caption([], SHORT) == [] and model.answer(clips[0], [], SHORT) == []
    with pytest.raises(ConfigError, match="3 videos and 2 questions"):
        model.answer(clips, questions)
    with pytest.raises(ConfigError, match="is blank"):
        model.answer(clips[0], " ")
    with pytest.raises(DecodeError):
        model.caption(parts() / "vision" / "vision.json")


def test_ranking_is_the_log_probability_of_each_choice(clips: list[str]) -> None:
    choices = ["blue", "red", "a green box"]
    scores = speaking().rank(clips[0], COLOUR, choices)
    model = load_vlm(parts() / "vlm").eval()
    (wanted,) = rank_answers(model, [asked(clips[0], COLOUR)], [choices], features)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    assert scores.dtype == np.float32 and (scores < 0).all() and scores.argmax() == 1


def test_choices_are_put_as_the_evaluation_put_them(tmp_path: Path, clips: list[str]) -> None:
    model = load_vlm(parts() / "vlm").eval()

    def wanted(question: str, choices: list[str], per_token: bool = False) -> Any:
        return rank_answers(model, [asked(clips[0], question)], [choices], features, per_token=per_token)[0]

    moves = "does it move?"
    np.testing.assert_allclose(speaking().rank(clips[0], moves, ["Yes", "No"]), wanted(moves, ["yes", "no"]), rtol=1e-5)
    named = {name: parts() / name for name in ("vision", "vlm")}
    info = {**INFO, "answers": {"rank_by": "mean", "with_choices": True}}
    write_model_folder(tmp_path / "model", parts=named, decode=DECODE, stored=STORED, info=info)  # type: ignore[arg-type]
    told = load(tmp_path / "model", device="cpu")
    listed = f"{COLOUR}\nAnswer with one of: red; a blue box."
    scores = told.rank(clips[0], COLOUR, ["red", "a blue box"])
    np.testing.assert_allclose(scores, wanted(listed, ["red", "a blue box"], per_token=True), rtol=1e-5)
    np.testing.assert_allclose(
        told.rank(clips[0], moves, ["No", "Yes"]), wanted(moves, ["no", "yes"], per_token=True), rtol=1e-5
    )
    questions: list[dict[str, Any]] = [
        {"question_id": "q0", "kind": "yes_no", "question": moves, "answer": "Yes", "choices": ["Yes", "No"]},
        {"question_id": "q1", "kind": "mcq", "question": COLOUR, "answer": "red", "choices": ["red", "a blue box"]},
    ]
    manifest = write_rows(tmp_path / "m.jsonl", [{"video_id": "v", "path": clips[0], "questions": questions}])
    arguments = ["--manifest", str(manifest), "--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert main(["answer", *arguments, "--workers", "0"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    of_words = wanted(moves, ["yes", "no"], per_token=True)
    np.testing.assert_allclose(rows[0]["log_probs"], of_words, atol=1e-3)
    np.testing.assert_allclose(rows[1]["log_probs"], scores, atol=1e-3)
    assert rows[0]["prediction"] == ("Yes", "No")[int(of_words.argmax())]


def test_what_is_no_text_is_refused(clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    model, half = speaking(), "what\ud800?"
    for call in (
        lambda: model.answer(clips[0], half),
        lambda: next(model.stream_answer(clips[0], half)),
        lambda: model.rank(clips[0], half, ["a", "b"]),
        lambda: model.rank(clips[0], "what?", ["a", half]),
    ):
        with pytest.raises(ConfigError, match="lone surrogate"):
            call()
    # What a shell gives of bytes that are no UTF-8.
    assert main(command("answer", clips[0], "what \udcff?")) == 2
    assert "lone surrogate" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="0 choices"):
        model.rank(clips[0], "what?", [])


def test_the_reward_model_chooses_among_drawn_texts(clips: list[str]) -> None:
    settings = GenerationSettings(method="sample", temperature=3.0, max_new_tokens=8, seed=5)
    chosen = load(folder_with("vision", "vlm", "reward"), device="cpu").caption(clips[0], settings, best_of=6)
    model = load_vlm(parts() / "vlm")
    judge = load_reward(parts() / "reward", load_vlm(parts() / "reward"))
    sample = encode_conversation(model.tokenizer, asked(clips[0], PROMPT), model.visual, for_generation=True)
    drawn = best_of_n(model, judge, sample, features, settings, 6)
    assert chosen == drawn[0].answer.text != drawn[-1].answer.text
    with pytest.raises(ConfigError, match="needs settings"):
        speaking().caption(clips[0], settings, best_of=2)


def test_a_model_says_what_it_lacks(clips: list[str]) -> None:
    words = speaking()
    for call in (lambda: words.encode_text(["a"]), lambda: words.encode_video(clips), lambda: words.embed_dim):
        with pytest.raises(ConfigError, match="no alignment"):
            call()
    dual = load(folder_with("vision", "text", "alignment"), device="cpu")
    for call in (lambda: dual.caption(clips[0]), lambda: dual.answer(clips, "what?"), lambda: dual.rank("a", "b", "c")):
        with pytest.raises(ConfigError, match="no vision-language model"):
            call()
    both = load(folder_with("vision", "text", "alignment", "vlm"), device="cpu")
    assert both.caption(clips[0], SHORT) == words.caption(clips[0], SHORT)
    np.testing.assert_array_equal(both.encode_video(clips), dual.encode_video(clips))


def test_versions_of_the_folder(tmp_path: Path) -> None:
    def version(*names: Part) -> int:
        return int(json.loads((folder_with(*names) / MANIFEST).read_text())["format_version"])

    assert version("vision", "text", "alignment") == 1
    assert version("vision", "vlm") == version("vision", "text", "alignment", "vlm") == 2
    # A folder of before there was an encode.json: its features are not rounded.
    old = Path(shutil.copytree(folder_with("vision", "text", "alignment"), tmp_path / "old"))
    (old / "encode.json").unlink()
    manifest = json.loads((old / MANIFEST).read_text())
    del manifest["files"]["encode.json"]
    (old / MANIFEST).write_text(json.dumps(manifest))
    assert load(old, device="cpu").encode_text(["a"]).shape == (1, 8)
    without = {"vision": parts() / "vision", "vlm": parts() / "vlm"}
    with pytest.raises(ArtifactError, match="caption_prompt"):
        write_model_folder(tmp_path / "new", parts=without, decode=DECODE, stored=STORED, info={})
    broken = Path(shutil.copytree(folder_with("vision", "vlm"), tmp_path / "broken"))
    (weights, *_) = sorted((broken / "vlm").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match=f"{weights.name} was changed"):
        load(broken)


@pytest.mark.parametrize(
    ("encode", "reads"),
    [
        ({"dtype": "float16"}, "frames"),
        ({"dtype": "bfloat16", "keep_tokens": True}, "frames"),
        ({"dtype": "float16", "keep_tokens": True, "tiling": {"grid": 2}}, "tokens"),
    ],
)  # fmt: skip
def test_features_of_a_file_are_those_of_the_store(
    tmp_path: Path, home: Path, clips: list[str], encode: dict[str, Any], reads: Any
) -> None:
    manifest = write_rows(tmp_path / "m.jsonl", [{"video_id": Path(c).stem, "path": c} for c in clips])
    vision = {"backbone": "timm:test_vit", "pretrained": False, "image_size": 32, "feature": "cls"}
    decode = {"sampling": {"num_frames": 2, "policy": "tsn_random", "seed": 4}, "image_size": 64}
    sections = {**NO_TRACKING, "decode": decode, "align": None, "evaluate": None}
    encode = {"vision": vision, "keep_times": True, **encode}
    request = make_request(write_recipe(tmp_path, manifest, **sections, encode=encode), home=home)
    run(request, "ingest", "encode")
    context = open_context(request)
    rows = index_of(request)
    stored = (read_patches if reads == "tokens" else read_features)(context, rows)
    config = context.recipe.encode
    visual = VisualFeatures(
        vision_backbone(context),
        context.recipe.decode,
        StoredAs(dtype=config.dtype, from_tokens=config.keep_tokens, tiling=config.tiling),
    )
    found = [visual.of_file(clip, reads) for clip in clips]
    served = np.stack([one.values for one in found])
    # Rounded alike; what is left is that the stage takes several clips at a time.
    np.testing.assert_allclose(served, stored, rtol=2e-2 if encode["dtype"] == "bfloat16" else 2e-3, atol=1e-6)
    assert (served == stored).mean() > 0.99
    np.testing.assert_array_equal(np.array([one.seconds for one in found], np.float32), read_times(context, rows))


def test_the_views_of_a_frame_share_its_time(clips: list[str]) -> None:
    config = DecodeConfig(sampling=SamplingConfig(num_frames=2), image_size=64)
    small = load_vision_backbone(VisionConfig(backbone="timm:test_vit", pretrained=False, image_size=32), "cpu")
    found = VisualFeatures(small, config, StoredAs(tiling=TilingConfig(grid=2))).of_file(clips[0], "frames")
    assert found.values.shape[0] == len(found.seconds) == 10
    assert found.seconds[:5] == found.seconds[:1] * 5 and found.seconds[5:] == found.seconds[5:6] * 5
    assert found.seconds[0] < found.seconds[5]


def test_pyfunc_answers_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: list[str]) -> None:
    home = fresh_home(tmp_path / "home")
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("register", "r") as stage:
        tracker.register(
            Registration(
                model_folder=folder_with("vision", "vlm"),
                model_name="words",
                alias="candidate",
                fingerprint="f",
                tags={},
            ),
            stage,
        )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc
    import pandas

    monkeypatch.setenv("VLMVID_SERVING_ROOT", str(Path(clips[0]).parent))
    pyfunc = mlflow.pyfunc.load_model("models:/words@candidate", model_config={"device": "cpu"})
    rows: list[dict[str, str]] = [{"video": clips[0]}, {"video": clips[1], "question": "what moves?"}]
    wanted = [speaking().caption(clips[0]), speaking().answer(clips[1], "what moves?")]
    assert pyfunc.predict(rows) == wanted
    assert pyfunc.predict(pandas.DataFrame(rows)) == wanted
    assert load("models:/words@candidate", device="cpu").caption(clips[0]) == wanted[0]


def write_manifest(folder: Path, clips: list[str]) -> Path:
    (folder / "broken.mp4").write_bytes(b"no video" * 40)
    questions = [
        [{"question_id": "q0", "kind": "open", "question": "what moves?", "answer": "a box"}],
        [
            {"question_id": "q1", "kind": "mcq", "question": "which?", "answer": "red", "choices": ["red", "blue"]},
            {"question_id": "q2", "kind": "open", "question": " ", "answer": "no"},
        ],
        [{"question_id": "q3", "kind": "open", "question": "what?", "answer": "a box"}],
    ]
    paths = [*clips[:2], str(folder / "broken.mp4")]
    rows = [
        {"video_id": f"v{i}", "path": path, "questions": some}
        for i, (path, some) in enumerate(zip(paths, questions, strict=True))
    ]
    return write_rows(folder / "manifest.jsonl", rows)


def command(*arguments: str) -> list[str]:
    model = str(folder_with("vision", "vlm"))
    return [*arguments, "--model", model, "--max-new-tokens", "16", "--workers", "0"]


def test_a_manifest_is_captioned_and_answered(
    tmp_path: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = write_manifest(tmp_path, clips), tmp_path / "captions.jsonl"
    arguments = command("caption", "--manifest", str(manifest), "--out", str(out), "--json")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out), "ok": 2, "failed": 1, "made_now": 3, "unreadable_rows": 0
    }  # fmt: skip
    captions = read_predictions(out).values
    assert captions == {"v0": expected(clips[0], PROMPT), "v1": expected(clips[1], PROMPT), "v2": None}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[2]["reason_code"] and "broken.mp4" in rows[2]["reason"]

    # Again: nothing is left to do, and the file is not touched.
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    # Killed within a line: the same file comes out.
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + lines[1][:9])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 2
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    # What failed for a passing reason is tried again.
    out.write_text(lines[0] + json.dumps({"id": "v1", "prediction": None, "transient": True}) + "\n" + lines[2])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 1
    assert read_predictions(out).values == captions

    answers = tmp_path / "answers.jsonl"
    assert main(command("answer", "--manifest", str(manifest), "--out", str(answers))) == 0
    assert "answer: 2 ok, 2 failed" in capsys.readouterr().out
    found = {row["id"]: row for row in map(json.loads, answers.read_text().splitlines())}
    scores = speaking().rank(clips[1], "which?", ["red", "blue"])
    assert found["q0"]["prediction"] == expected(clips[0], "what moves?")
    assert found["q1"]["prediction"] == ["red", "blue"][int(scores.argmax())]
    np.testing.assert_allclose(found["q1"]["log_probs"], scores, atol=1e-3)
    assert (found["q2"]["prediction"], found["q2"]["reason_code"]) == (None, "refused")
    assert found["q3"]["reason_code"] == rows[2]["reason_code"]
    assert read_predictions(answers).values["q3"] is None


def test_the_text_of_a_replaced_video_is_made_again(
    tmp_path: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held = [shutil.copy(path, tmp_path / f"v{i}.mp4") for i, path in enumerate(clips)]
    rows = [{"video_id": f"v{i}", "path": str(path)} for i, path in enumerate([*held, tmp_path / "later.mp4"])]
    manifest, out = write_rows(tmp_path / "manifest.jsonl", rows), tmp_path / "out.jsonl"
    arguments = command("caption", "--manifest", str(manifest), "--out", str(out), "--json")
    assert main(arguments) == 0
    first = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert first["v3"]["prediction"] is None
    shutil.copy(clips[0], held[1])
    shutil.copy(clips[2], tmp_path / "later.mp4")
    capsys.readouterr()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["made_now"] == 2
    again = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert [again[name] for name in ("v0", "v2")] == [first[name] for name in ("v0", "v2")]
    assert again["v1"]["prediction"] == first["v0"]["prediction"] != first["v1"]["prediction"]
    assert again["v3"]["prediction"] == first["v2"]["prediction"]


def test_a_file_of_other_answers_is_left_alone(
    tmp_path: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = write_manifest(tmp_path, clips), tmp_path / "out.jsonl"
    arguments = ["--manifest", str(manifest), "--out", str(out)]
    out.write_text("{}\n")
    assert main(command("caption", *arguments)) == 2
    assert "is not of this command" in capsys.readouterr().err
    out.unlink()
    assert main(command("caption", *arguments)) == 0
    held = out.read_bytes()
    assert main(command("answer", *arguments)) == 2
    assert main(command("caption", *arguments, "--temperature", "0.7")) == 2
    assert "another method (greedy there, sample now) and temperature (1.0 there, 0.7 now)" in capsys.readouterr().err
    assert out.read_bytes() == held
    assert main(command("caption", "--manifest", str(manifest), "--out", str(tmp_path / "no" / "out.jsonl"))) == 2


def test_the_terminal(
    tmp_path: Path, clips: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def out(*arguments: str, code: int = 0) -> str:
        assert main(command(*arguments)) == code
        return capsys.readouterr().out

    assert out("caption", clips[0]) == expected(clips[0], PROMPT) + "\n"
    broken = str(tmp_path / "missing.mp4")
    assert out("caption", clips[0], broken, code=1) == f"{clips[0]}: {expected(clips[0], PROMPT)}\n"
    rows = json.loads(out("caption", clips[1], broken, "--json", code=1))
    assert rows[0] == {"id": clips[1], "prediction": expected(clips[1], PROMPT)}
    assert rows[1]["prediction"] is None and rows[1]["reason_code"] == "missing_file"
    assert not [one for one in caplog.records if one.levelname == "WARNING"]  # the command says it once
    wanted = expected(clips[0], "what moves?")
    for option in ("--stream", "--no-stream", "--json"):
        said = out("answer", clips[0], "what moves?", option)
        assert (json.loads(said)["answer"] if option == "--json" else said) == (
            wanted if option == "--json" else f"{wanted}\n"
        )
    ranked = json.loads(out("answer", clips[0], "which?", "--choices", "red, blue,a box ", "--json"))
    assert [row["choice"] for row in ranked["choices"]][0] == ranked["answer"]
    assert ranked["choices"] == sorted(ranked["choices"], key=lambda row: -row["log_prob"])
    beam = expected(clips[0], "what moves?", GenerationSettings(max_new_tokens=16, method="beam", num_beams=3))
    assert out("answer", clips[0], "what moves?", "--beams", "3") == f"{beam}\n"
    first, second = (out("caption", clips[0], "--temperature", "2", "--seed", seed) for seed in ("1", "1"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["caption"], "give either VIDEO"),
        (["caption", "a.mp4", "--manifest", "m.jsonl", "--out", "o"], "give either VIDEO"),
        (["caption", "--manifest", "m.jsonl"], "belong together"),
        (["answer", "a.mp4"], "needs a QUESTION"),
        (["answer", "a.mp4", "what?", "--choices", "red"], "two or more"),
        (["answer", "a.mp4", "what?", "--stream", "--json"], "leave out --json"),
        (["answer", "a.mp4", "what?", "--beams", "2", "--temperature", "1"], "two methods"),
        (["answer", "a.mp4", "what?", "--seed", "3"], "does not read seed"),
        (["caption", "a.mp4", "--temperature", "0"], "temperature"),
        (["caption", "a.mp4", "--workers", "-1"], "--workers"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--model", str(folder_with("vision", "vlm"))]) == 2
    assert words in capsys.readouterr().err


def test_a_dual_encoder_is_refused(clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(folder_with("vision", "text", "alignment"))
    assert main(["caption", clips[0], "--model", folder]) == 2
    assert "no vision-language model" in capsys.readouterr().err


def test_a_model_that_speaks_says_so() -> None:
    lines = repr(speaking()).splitlines()
    assert lines[0] == "VideoTextModel 'tiny': says what videos show"
    assert any(line.startswith("  language model  llama, ") for line in lines)
    assert "  connector       linear over time steps" in lines
    both = load(folder_with("vision", "vlm", "reward", "text", "alignment"), device="cpu")
    assert repr(both).startswith("VideoTextModel 'tiny': compares videos with texts and says what videos show\n")
    assert both.parts["reward model"] == "prefers one of several answers"
