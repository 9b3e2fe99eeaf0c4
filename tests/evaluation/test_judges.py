from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.examples import qa_open
from vlmvid.errors import CheckpointError, ConfigError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.judges import EndpointJudge, GenerateJudge, Verdict, judge_from_options, judged, parse_verdict
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions

YES, NO = "{'pred': 'yes', 'score': 5}", '{"pred": "no", "score": 1}'
DATE = "2026-11-22"


class Endpoint(ThreadingHTTPServer):
    """An endpoint that gives `answers` in turn: (status, body, headers); the last one again and again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, str, dict[str, str]]] = [(200, reply(YES), {})]
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body, dict(self.headers)))
            answers = self.server.answers
            status, text, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if "{prompt}" in text:
            text = reply(YES if "talk" in body["messages"][0]["content"].split("Given answer:")[1] else NO)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def reply(content: str | None) -> str:
    return json.dumps({"model": "m", "choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def judge_at(endpoint: Endpoint, **more: Any) -> EndpointJudge:
    return EndpointJudge(endpoint.url, "m-1", DATE, **{"pause_seconds": 0.01, "workers": 2, **more})


def words(tmp_path: Path) -> list[Item]:
    return get_benchmark("msrvtt_qa").read(qa_open.write_word_qa(tmp_path, categories=True), {})


def score(items: list[Item], values: dict[str, Any], **settings: Any) -> TaskResult:
    chosen = ScoreSettings(num_bootstrap=50, **settings)
    return get_benchmark("msrvtt_qa").scorer(chosen)(items, Predictions(values), chosen)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (YES, Verdict(True, 5)),
        (NO, Verdict(False, 1)),
        ("```python\n{'pred': 'Yes', 'score': 4.8}\n```", Verdict(True, 4)),
        ("{'pred': 'no', 'score': '2'}", Verdict(False, 2)),
        ("{'pred': 'not yes', 'score': 3}", None),
        ("{'pred': 'yes', 'score': 9}", None),
        ("{'pred': 'yes'}", None),
        ("{'pred': 'yes', 'score': nan}", None),
        ('{"pred": "yes", "score": NaN}', None),
        ("{1, 2}", None),
        ("yes", None),
        ("{broken", None),
        ("", None),
        (None, None),
    ],
)
def test_verdicts(said: str | None, verdict: Verdict | None) -> None:
    assert parse_verdict(said) == verdict


def test_a_score_with_a_judge_names_it_and_logs_its_replies(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    endpoint.answers = [(200, "{prompt}", {})]
    options = {"judge": f"{endpoint.url}#m-1", "judge_date": DATE, "judge_key": "JUDGE_KEY"}
    result = score(words(tmp_path), {"1": "talking", "2": "dog", "3": "", "9": "x"}, options=options)
    label = f"[judge=m-1@{DATE}]"
    assert result.metrics[0].name == "accuracy" and result.metrics[0].value == 0
    assert result.metric(f"judge_accuracy{label}").value == 0.25  # of four; one is empty, one is missing
    assert result.metric(f"judge_accuracy/parsed{label}").value == 0.5
    assert result.metric(f"judge_score{label}").value == 3
    assert result.metric(f"judge_n_unparsed{label}").value == 0
    assert [row["judge_right"] for row in result.samples] == [True, False, None, None]
    assert result.samples[0]["judge_reply"] == YES and "m-1 on 2026-11-22" in result.protocol
    path, body, headers = endpoint.requests[0]
    assert path == "/v1/chat/completions" and body["model"] == "m-1" and body["temperature"] == 0
    assert headers["Authorization"] == "Bearer secret"
    skipped = score(words(tmp_path), {"1": "talking", "2": "dog"}, options=options, missing="skip")
    assert skipped.metric(f"judge_accuracy{label}[missing=skip]").value == 0.5


def test_failures_that_may_pass_are_tried_again(endpoint: Endpoint) -> None:
    endpoint.answers = [
        (503, "busy", {}),
        (429, "slow", {"Retry-After": "0.05"}),
        (200, "<html>", {}),
        (200, reply(NO), {}),
    ]
    assert judge_at(endpoint).replies(["a"]) == [NO]
    assert len(endpoint.requests) == 4


def test_tries_are_bounded_and_what_came_is_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    endpoint.answers = [(200, reply(YES), {}), (500, "down", {})]
    with pytest.raises(EvaluationError, match="failed 3 times: HTTP 500"):
        judge_at(endpoint, attempts=3, workers=1, log=log).replies(["a", "b"])
    assert len(endpoint.requests) == 4
    with log.open("a") as stream:
        stream.write('{"judge": "m-')  # killed while it wrote
    endpoint.answers = [(200, reply(NO), {})]
    judge = judge_at(endpoint, log=log)
    assert judge.replies(["a", "b", "a"]) == [YES, NO, YES]
    assert len(endpoint.requests) == 5  # a is not asked again
    with pytest.raises(EvaluationError, match="line 2: not a reply"):
        judge.replies(["a"])


def test_a_log_of_another_judge_is_not_used(endpoint: Endpoint, tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    judge_at(endpoint, log=log).replies(["a"])
    EndpointJudge(endpoint.url, "m-1", "2027-01-01", log=log).replies(["a"])
    assert len(endpoint.requests) == 2


def test_a_refused_prompt_is_unparsed_and_a_refused_key_stops(endpoint: Endpoint) -> None:
    endpoint.answers = [(400, "content filter", {})]
    assert judge_at(endpoint).replies(["a"]) == [None]
    assert len(endpoint.requests) == 1
    endpoint.answers = [(401, "no key", {})]
    with pytest.raises(EvaluationError, match="HTTP 401: no key; check the address"):
        judge_at(endpoint).replies(["a"])
    endpoint.answers = [(200, reply(None), {})]
    assert judge_at(endpoint).replies(["b"]) == [None]


def test_no_endpoint_at_all_fails_after_its_tries() -> None:
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m", DATE, attempts=2, pause_seconds=0.01)
    with pytest.raises(EvaluationError, match="failed 2 times"):
        judge.replies(["a"])


def test_equal_questions_are_asked_once(endpoint: Endpoint) -> None:
    assert judge_at(endpoint).replies(["a"] * 5) == [YES] * 5
    assert len(endpoint.requests) == 1


def test_a_local_model_judges_and_unreadable_replies_are_wrong(tmp_path: Path) -> None:
    items, settings = words(tmp_path), ScoreSettings(num_bootstrap=50)
    result = score(items, {"1": "talk", "2": "a man", "3": "red", "4": "man"})
    replies = [YES, "I think so", YES, NO]
    found = judged(result, items, settings, GenerateJudge("tiny", DATE, lambda prompts: replies[: len(prompts)]))
    assert found.metric(f"judge_accuracy[judge=tiny@{DATE}]").value == 0.5
    assert found.metric(f"judge_accuracy/parsed[judge=tiny@{DATE}]").value == pytest.approx(2 / 3)
    assert found.metric(f"judge_n_unparsed[judge=tiny@{DATE}]").value == 1
    assert "1 replies could not be read" in found.protocol
    with pytest.raises(EvaluationError, match="0 replies to 4 prompts"):
        judged(result, items, settings, GenerateJudge("tiny", DATE, lambda prompts: []))


def test_another_wording_stands_in_the_protocol(tmp_path: Path) -> None:
    items = words(tmp_path)
    result = score(items, {"1": "talk"})
    asked: list[str] = []

    def generate(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return [YES] * len(prompts)

    wording = tmp_path / "mine.txt"
    wording.write_text("Q {question} A {answer} P {prediction} {{}}")
    settings, judge = ScoreSettings(options={"judge_prompt": str(wording)}), GenerateJudge("t", DATE, generate)
    found = judged(result, items, settings, judge)
    assert asked == ["Q what is a man doing? A talk P talk {}"] and "mine.txt sha256" in found.protocol
    wording.write_text("{other}")
    with pytest.raises(ConfigError, match="other braces doubled"):
        judged(result, items, settings, judge)


def test_options_of_a_judge() -> None:
    assert judge_from_options({}) is None
    judge = judge_from_options({"judge": "http://127.0.0.1/v1#org/model"})
    assert judge is not None and judge.name == "org/model" and len(judge.date) == 10
    for wrong in ("gpt-4o", "http://127.0.0.1/v1", "http://x#"):
        with pytest.raises(ConfigError, match="URL#MODEL"):
            judge_from_options({"judge": wrong})
    with pytest.raises(ConfigError, match="judge_date needs the option judge"):
        judge_from_options({"judge_date": DATE})


def write_language_model(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from vlmvid.models.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "yes", "no", "{'pred':", "'yes',", "'score':", "5}", "talk", "question"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=512))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_language_model_on_this_machine_judges(tmp_path: Path) -> None:
    from vlmvid.models.text_generation import load_generator

    folder = write_language_model(tmp_path / "judge-tiny")
    generate = load_generator(str(folder), device="cpu", max_new_tokens=4)
    prompts = ["yes no", "talk", "a long question with many words"]
    together = generate(prompts)
    assert len(together) == 3 and together == generate(prompts) == [generate([prompt])[0] for prompt in prompts]
    judge = judge_from_options({"judge": f"hf:{folder}", "judge_date": DATE})
    assert isinstance(judge, GenerateJudge) and (judge.name, judge.date) == ("judge-tiny", DATE)
    assert len(judge.replies(prompts[:1])) == 1
    with pytest.raises(ConfigError, match="judge_key is of judges behind an endpoint"):
        judge_from_options({"judge": f"hf:{folder}", "judge_key": "K"})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer that can be read"):
        load_generator(str(folder), device="cpu")
    write_language_model(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_generator(str(folder), device="cpu")
