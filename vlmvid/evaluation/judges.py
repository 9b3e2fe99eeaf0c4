"""Open answers judged by a language model: right or not, and 0 to 5.

The form of the question and of the reply follows Video-ChatGPT (mbzuai-oryx/Video-ChatGPT at 659e04b2ce,
evaluate_activitynet_qa.py): a dictionary with ``pred`` (yes or no) and ``score`` (0 to 5). The wording is vlmvid's own;
a file with another one is an option. A judge's verdict depends on the judge, so its name and date stand in the name of
every metric: ``judge_accuracy[judge=gpt-4o-2024-11-20@2026-11-22]``. Judged scores are not exact-match scores.

Where this differs from that script: a reply that cannot be read is counted as unparsed, and wrong, instead of being
asked for again without end; the temperature is 0; equal questions are asked once.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request

from vlmvid.config.addresses import check_address, check_no_secret, open_http, without_secrets
from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.metrics import rate_result
from vlmvid.types import MetricResult

_KEY_VARIABLE = "OPENAI_API_KEY"
JUDGE_OPTIONS = {
    "judge": "URL#MODEL of an OpenAI-compatible endpoint that judges the answers, e.g. https://HOST/v1#NAME, or "
    "hf:FOLDER (or hf:REPO) of a language model on this machine",
    "judge_date": "the date that stands in the metric's name; default: today",
    "judge_key": f"name of the environment variable with the endpoint's key; default: {_KEY_VARIABLE}",
    "judge_log": "a JSON Lines file of replies: read first, then appended to, so that a stopped run goes on",
    "judge_prompt": "a text file with {question}, {answer} and {prediction}, in place of vlmvid's own wording",
}
PROMPT_VERSION = "judge-1"
PROMPT = (
    "Compare an answer to a question about a video with the right answer.\n"
    "Question: {question}\n"
    "Right answer: {answer}\n"
    "Given answer: {prediction}\n"
    "Does the given answer mean the same as the right answer? Other words for the same thing are right. Reply with a "
    "Python dictionary and nothing else: 'pred' is 'yes' or 'no', 'score' is a whole number from 0 (nothing in common) "
    "to 5 (the same meaning). Example: {{'pred': 'no', 'score': 1}}"
)
_TRANSIENT = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
_SETUP = frozenset((301, 302, 303, 307, 308, 401, 403, 404, 405))  # redirections are not followed
_MAX_PAUSE_SECONDS = 60.0
_MAX_TOKENS = 256
_MAX_REPLY_BYTES = 1 << 24


class Verdict(NamedTuple):
    """What a judge said of one answer; `rating` lies in 0..5."""

    right: bool
    rating: int


class Judge(Protocol):
    """A language model that judges."""

    @property
    def name(self) -> str:
        """The exact model, e.g. ``gpt-4o-2024-11-20``."""
        ...

    @property
    def date(self) -> str:
        """When it was asked; models behind one name change."""
        ...

    def replies(self, prompts: Sequence[str]) -> list[str | None]:
        """One reply per prompt, None where the model gave none."""
        ...


@dataclass(frozen=True)
class GenerateJudge:
    """A judge from any function of texts to texts, e.g. a local language model.

    Attributes:
        name: the exact model.
        date: when it was asked.
        generate: prompts -> replies, one each.
    """

    name: str
    date: str
    generate: Callable[[list[str]], list[str]]

    def replies(self, prompts: Sequence[str]) -> list[str | None]:
        """The replies; raises EvaluationError for another number of them."""
        found = self.generate(list(prompts))
        if len(found) != len(prompts):
            raise EvaluationError(f"judge {self.name}: {len(found)} replies to {len(prompts)} prompts")
        return list(found)


@dataclass(frozen=True)
class EndpointJudge:
    """A judge behind an OpenAI-compatible endpoint: ``POST URL/chat/completions``.

    Attributes:
        url: the base, e.g. ``https://HOST/v1``.
        name: the model.
        date: when it was asked.
        key_variable: environment variable with the key; no key is sent where it is not set.
        log: see ``judge_log`` in `JUDGE_OPTIONS`.
        workers: requests at a time.
        attempts: tries of each request; only failures that may pass are tried again.
        pause_seconds: before the second try; doubled before each further one, and at least what the server asks for.
        timeout_seconds: of one request.
    """

    url: str
    name: str
    date: str
    key_variable: str = _KEY_VARIABLE
    log: Path | None = None
    workers: int = 8
    attempts: int = 5
    pause_seconds: float = 1.0
    timeout_seconds: float = 120.0

    def replies(self, prompts: Sequence[str]) -> list[str | None]:
        """The replies, from the log where it has them; None where the endpoint refused a prompt for good.

        Raises:
            EvaluationError: a key or model that is refused, or failures beyond `attempts`; replies so far are logged.
        """
        known = self._read_log()
        waiting = [prompt for prompt in dict.fromkeys(prompts) if _digest(prompt) not in known]
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for prompt, reply in zip(waiting, pool.map(self._ask, waiting), strict=True):
                    known[_digest(prompt)] = reply
                    self._write_log(prompt, reply)
            except EvaluationError:
                pool.shutdown(cancel_futures=True)
                raise
        return [known[_digest(prompt)] for prompt in prompts]

    def _read_log(self) -> dict[str, str | None]:
        if self.log is None or not self.log.is_file():
            return {}
        found: dict[str, str | None] = {}
        lines = self.log.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if (row["judge"], row["date"]) == (self.name, self.date):
                    found[row["prompt_sha256"]] = row["reply"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                if number == len(lines):  # a run that was killed while it wrote
                    break
                raise EvaluationError(f"{self.log}, line {number}: not a reply of a judge: {error!r}") from error
        return found

    def _write_log(self, prompt: str, reply: str | None) -> None:
        if self.log is None:
            return
        row = {"judge": self.name, "date": self.date, "prompt_sha256": _digest(prompt), "reply": reply}
        cut = self.log.is_file() and self.log.read_bytes()[-1:] not in (b"", b"\n")
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if cut else "") + json.dumps(row, ensure_ascii=False) + "\n")

    def _ask(self, prompt: str) -> str | None:
        problem = ""
        for attempt, pause in enumerate(self._pauses(), start=1):
            try:
                return _content(self._post(prompt))
            except HTTPError as error:
                problem = self._without_key(f"HTTP {error.code}: {error.read()[:200].decode('utf-8', 'replace')}")
                if error.code in _SETUP:
                    raise EvaluationError(
                        f"judge {self.name} at {self.url}: {problem}; check the address, the model's name and the key "
                        f"in {self.key_variable}"
                    ) from error
                if error.code not in _TRANSIENT:
                    return None  # this prompt is refused, e.g. by a content filter
                pause = max(pause, _retry_after(error.headers))
            except (URLError, HTTPException, OSError, ValueError, KeyError, IndexError, TypeError) as error:
                problem = self._without_key(repr(error))  # also an answer that is no reply: a proxy's page, a cut body
            if attempt < self.attempts:
                time.sleep(min(pause, _MAX_PAUSE_SECONDS))
        kept = f"; the replies so far are in {self.log}" if self.log else "; give judge_log to keep replies"
        raise EvaluationError(f"judge {self.name} at {self.url} failed {self.attempts} times: {problem}{kept}")

    def _pauses(self) -> Iterator[float]:
        return (self.pause_seconds * 2**attempt for attempt in range(self.attempts))

    def _post(self, prompt: str) -> Any:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = Request(  # noqa: S310  # open_http opens http and https alone
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        with open_http(request, self.timeout_seconds) as response:
            return json.loads(response.read(_MAX_REPLY_BYTES))

    def _without_key(self, text: str) -> str:
        """`text` without the key, which some servers repeat when they refuse it."""
        key = os.environ.get(self.key_variable)
        return text.replace(key, "***") if key else text


def judge_from_options(options: Mapping[str, str]) -> EndpointJudge | GenerateJudge | None:
    """The judge that the options of a score name, or None; raises ConfigError for another form.

    A local model is loaded when it is first asked.
    """
    if "judge" not in options:
        given = [name for name in JUDGE_OPTIONS if name in options]
        if given:
            raise ConfigError(f"option {given[0]} needs the option judge=URL#MODEL or judge=hf:FOLDER")
        return None
    date = options.get("judge_date", datetime.now(UTC).date().isoformat())
    if options["judge"].startswith("hf:"):
        return _local_judge(options["judge"].removeprefix("hf:"), date, options)
    url, separator, name = options["judge"].partition("#")
    if not separator or not name:
        raise ConfigError(
            f"option judge={without_secrets(options['judge'])!r} must be URL#MODEL, e.g. "
            "http://127.0.0.1:8000/v1#NAME, or hf:FOLDER"
        )
    check_address(url, "judge", "option judge")
    check_no_secret(url, "option judge", "set the key in the environment, and name its variable in judge_key")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", options.get("judge_key", _KEY_VARIABLE)):
        raise ConfigError(
            "option judge_key must be the name of an environment variable in capital letters, not the key itself; e.g. "
            f"{_KEY_VARIABLE}"
        )
    return EndpointJudge(
        url=url,
        name=name,
        date=date,
        key_variable=options.get("judge_key", _KEY_VARIABLE),
        log=Path(options["judge_log"]) if "judge_log" in options else None,
    )


def _local_judge(place: str, date: str, options: Mapping[str, str]) -> GenerateJudge:
    unused = [name for name in ("judge_key", "judge_log") if name in options]
    if unused:
        raise ConfigError(f"option {unused[0]} is of judges behind an endpoint; leave it out with judge=hf:{place}")

    def generate(prompts: list[str]) -> list[str]:
        from vlmvid.models.text_generation import load_generator

        return load_generator(place, max_new_tokens=_MAX_TOKENS)(prompts)

    return GenerateJudge(Path(place).name or place, date, generate)


def read_prompt(options: Mapping[str, str]) -> tuple[str, str]:
    """The wording and its version: vlmvid's own, or that of the file which the options name."""
    if "judge_prompt" not in options:
        return PROMPT, PROMPT_VERSION
    path = Path(options["judge_prompt"])
    try:
        wording = path.read_text(encoding="utf-8")
        wording.format(question="", answer="", prediction="")
    except (OSError, UnicodeDecodeError, KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"option judge_prompt={path}: {error!r}; expected a text with {{question}}, {{answer}} and {{prediction}}, "
            "other braces doubled"
        ) from error
    return wording, f"{path.name} sha256 {_digest(wording)[:8]}"


def parse_verdict(reply: str | None) -> Verdict | None:
    """The first dictionary in `reply`, as Python or JSON, with ``pred`` yes or no and ``score`` 0..5; None without it.

    A score with decimals is cut, as Video-ChatGPT does.
    """
    found = re.search(r"\{[^{}]*\}", reply or "")
    if not found:
        return None
    try:
        value = ast.literal_eval(found.group())
    except (ValueError, SyntaxError):
        try:
            value = json.loads(found.group())
        except json.JSONDecodeError:
            return None
    if not isinstance(value, dict):
        return None
    said = str(value.get("pred", "")).strip(" .").lower()
    try:
        rating = int(float(value.get("score", "")))
    except (TypeError, ValueError, OverflowError):
        return None
    return Verdict(said == "yes", rating) if said in ("yes", "no") and 0 <= rating <= 5 else None


def judged(result: TaskResult, items: Sequence[Item], settings: ScoreSettings, judge: Judge) -> TaskResult:
    """`result` with a judge's metrics and, for each sample, what the judge replied.

    ``judge_accuracy`` is over all scored items: one without an answer, or whose reply cannot be read, is wrong.
    ``judge_accuracy/parsed`` is yes / (yes + no), as Video-ChatGPT counts; ``judge_score`` the mean of 0..5 over the
    replies that could be read.
    """
    wording, version = read_prompt(settings.options)
    by_id = {item.item_id: item for item in items}
    asked = {
        str(row["item_id"]): wording.format(
            question=by_id[str(row["item_id"])].question,
            answer=by_id[str(row["item_id"])].answer,
            prediction=row["raw"],
        )
        for row in result.samples
        if row["status"] == "parsed"
    }
    replies = dict(zip(asked, judge.replies(list(asked.values())), strict=True))
    verdicts = {item_id: parse_verdict(reply) for item_id, reply in replies.items()}
    samples = [_with_verdict(row, replies, verdicts) for row in result.samples]
    unread = sum(verdict is None for verdict in verdicts.values())
    return replace(
        result,
        metrics=(*result.metrics, *_metrics(samples, judge, settings, unread)),
        samples=samples,
        protocol=f"{result.protocol}; judged by {judge.name} on {judge.date} with wording {version}: {len(asked)} "
        f"answers, {unread} replies could not be read and count as wrong",
    )


def _with_verdict(row: Sample, replies: Mapping[str, str | None], verdicts: Mapping[str, Verdict | None]) -> Sample:
    verdict = verdicts.get(str(row["item_id"]))
    return {
        **row,
        "judge_reply": replies.get(str(row["item_id"])),
        "judge_right": None if verdict is None else verdict.right,
        "judge_rating": None if verdict is None else verdict.rating,
    }


def _metrics(samples: Sequence[Sample], judge: Judge, settings: ScoreSettings, unread: int) -> list[MetricResult]:
    label = f"[judge={judge.name}@{judge.date}]" + ("[missing=skip]" if settings.missing == "skip" else "")
    counted = [row for row in samples if settings.missing != "skip" or row["status"] != "missing"]
    read = [row for row in counted if row["judge_right"] is not None]

    def mean(name: str, rows: Sequence[Sample], column: str, *, bounded: bool = True) -> MetricResult:
        return rate_result(
            f"{name}{label}",
            [float(row[column] or 0) for row in rows],
            clusters=[str(row["video_id"]) for row in rows],
            bounded=bounded,
            seed=settings.seed,
            num_bootstrap=settings.num_bootstrap,
        )

    metrics = [mean("judge_accuracy", counted, "judge_right")]
    if read:
        metrics.append(mean("judge_accuracy/parsed", read, "judge_right"))
        metrics.append(mean("judge_score", read, "judge_rating", bounded=False))
    unparsed = MetricResult(
        name=f"judge_n_unparsed{label}", value=float(unread), num_samples=len(counted), higher_is_better=False
    )
    return [*metrics, unparsed]


def _content(response: Any) -> str | None:
    content = response["choices"][0]["message"]["content"]
    return None if content is None else str(content)


def _retry_after(headers: Message) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value or "") else 0.0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
