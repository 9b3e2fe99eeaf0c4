"""Looking at a report's HTML as a browser would, and results to draw."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

from vlmvid.artifacts import KeyParts
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.report_examples import choose_examples
from vlmvid.evaluation.report_page import Page, Strip
from vlmvid.evaluation.report_run import Cost, Curve, Defect, RunRecord, Similarity, SplitCount, StageRecord
from vlmvid.evaluation.report_sections import run_page
from vlmvid.metrics import chance_result, mean_result

HOSTILE = [
    "<script>alert('caption')</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><script src=//evil.example/x.js></script>",
    "costs $5 and $\\frac{1}{2}$ {{ 7 * 7 }} | a `b` *c* [d](javascript:alert(1))",
    "right\u202eto left, 日本語",
]
_VOID = {"meta", "img", "br", "link", "input"}


class Seen(HTMLParser):
    """What stands in a page: elements with their attributes, headings, text of captions, and what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.tables: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.tables.append([])
        if self.tables and tag in ("caption", "th"):
            self.tables[-1].append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def check(self) -> None:
        """What holds of every report: nothing runs, nothing is fetched, and everybody can read it."""
        assert not self.open
        names = [tag for tag, _ in self.elements]
        assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(names)
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in self.elements:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            for name in ("src", "href", "xlink:href"):
                address = attributes.get(name, "#")
                assert address.startswith(("#", "data:image/")), (tag, address[:80])
                if address.startswith("#") and len(address) > 1:
                    assert address[1:] in ids, address
            if tag == "img":
                assert attributes["alt"] and attributes["width"] and attributes["height"]
            if tag == "th":
                assert attributes["scope"] in ("row", "col")
        assert all(table[0] == "caption" for table in self.tables)
        assert self.headings[0] == 1 and self.headings.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(self.headings, self.headings[1:], strict=False))
        assert ("html", {"lang": "en"}) in self.elements
        policy = next(a["content"] for tag, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'") and "script" not in policy


def retrieval(num: int = 40, *, seed: int = 0, shift: float = 0.0, texts: list[str] | None = None) -> TaskResult:
    """A result as task `retrieval` gives it, over `num` clips; a higher `shift` is a better model."""
    rng = np.random.default_rng(seed)
    ranks = np.maximum(1, rng.geometric(0.3 + shift, num)).astype(float)
    hits = ranks == 1
    rows: list[Sample] = [
        {
            "item_id": f"v{i}#0",
            "video_id": f"v{i}",
            "status": "parsed",
            "direction": "t2v",
            "caption": texts[i] if texts and i < len(texts) else f"caption {i}",
            "rank": float(ranks[i]),
            "score": float(hits[i]),
            "top_video_id": f"v{i}" if hits[i] else f"v{(i + 1) % num}",
        }
        for i in range(num)
    ]
    metrics = [
        mean_result("t2v_r_at_1", hits, clusters=[f"v{i}" for i in range(num)], seed=0, num_bootstrap=100),
        chance_result("t2v_r_at_1", np.full(num, 1 / num)),
    ]
    return TaskResult("retrieval", "retrieval on split 'test'", tuple(metrics), rows)


def answers(num: int = 30) -> TaskResult:
    """A result with baselines and categories."""
    rng = np.random.default_rng(1)
    kinds = ["colour", "shape", "size"]
    rows: list[Sample] = [
        {
            "item_id": f"q{i}",
            "video_id": f"v{i}",
            "status": "parsed",
            "direction": "vqa",
            "question": f"which {kinds[i % 3]}?",
            "answer": "red",
            "predicted": "red" if i % 2 else "blue",
            "score": float(i % 2),
            "answer_log_prob": -float(rng.random()),
            "best_log_prob": -0.01,
        }
        for i in range(num)
    ]

    def rate(name: str, values: Any) -> Any:
        return mean_result(name, np.asarray(values, bool), seed=0, num_bootstrap=100)

    right = [row["score"] == 1 for row in rows]
    metrics = [
        rate("accuracy", right),
        rate("accuracy/blind", [i % 5 == 0 for i in range(num)]),
        rate("accuracy/majority", [i % 3 == 0 for i in range(num)]),
        *(rate(f"accuracy_property_{kind}", right[place::3]) for place, kind in enumerate(kinds)),
        rate("hallucination_false_yes_rate", [False] * num),
    ]
    return TaskResult("vlm_vqa", "VQA by a vision-language model", tuple(metrics), rows)


def record(name: str = "run", *results: TaskResult, shift: float = 0.0) -> RunRecord:
    """A run that knows something for every section, with hostile texts wherever one can come from outside."""
    parts = KeyParts(stage="align", inputs={"encode": "k" * 24}, config={"lr": 0.1 + shift}, code={"m": "1"})
    rows = [{"step": float(step), "loss": 3 / step + shift} for step in range(1, 301)]
    rows[99]["val_r_at_1"] = 0.5
    return RunRecord(
        name=name,
        source=name,
        facts=tuple((f"fact {number}", text) for number, text in enumerate(HOSTILE)),
        stages=(
            StageRecord("ingest", "a" * 24, {"ok": 3}, 1.7e9),
            StageRecord("align", parts.key, {}, 1.7e9 + 60, parts, cost=Cost(10.0, 18.5, 2e9, 300, "step")),
        ),
        splits=(SplitCount("train", 10, 20, 0), SplitCount("test", 5, 5, 5)),
        results=results or (retrieval(texts=HOSTILE), answers()),
        curves=(Curve("align", rows),),
        similarity=Similarity(tuple(HOSTILE), np.eye(len(HOSTILE), dtype=np.float32)),
        defects=tuple(Defect("decode", text, "failed_permanent", "no_frames", text) for text in HOSTILE),
    )


def page_of(one: RunRecord) -> Page:
    """Its report with a picture for the first clip of each example, and none for the clip that was taken for it."""
    examples = choose_examples(one.results)
    picture = io.BytesIO()
    Image.new("RGB", (682, 112), "teal").save(picture, "WEBP")
    strip = Strip("v0", picture.getvalue(), HOSTILE[1], 682, 112, (0.0, 0.5))
    strips = {(e.result.file_stem, name): replace(strip, title=name) for e in examples for name in e.shown[:1]}
    return run_page(one, examples, strips)
