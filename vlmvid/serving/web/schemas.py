"""What the REST API takes and gives, with examples for its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vlmvid.serving.web.options import MAX_QUERY_CHARACTERS

Values = dict[str, Any]
_CLIP = {
    "row": 17,
    "video_id": "kitchen-0042",
    "start_seconds": 12.0,
    "end_seconds": 20.5,
    "captions": ["a cook cuts an onion"],
    "attributes": {"place": "kitchen"},
    "missing": False,
    "thumbnail": "/api/clips/17/thumbnail",
    "video": "/api/clips/17/video",
}
_MOMENT = {"seconds": 15.2, "score": 0.31, "steps": [[13.1, 0.2], [15.2, 0.31], [19.4, 0.25]]}
_HIT = {"rank": 1, "score": 0.29, "clip": _CLIP, "moment": _MOMENT}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _example(value: Values) -> ConfigDict:
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [value]})


class Health(_Answer):
    """The server answers."""

    model_config = _example({"status": "ok", "clips": 100_000})
    status: str
    clips: int


class ModelInfo(_Answer):
    """The model behind the server: its name, its digest, and what it can do."""

    name: str
    digest: str
    embeds: bool = Field(description="It compares texts with videos: searches are answered.")
    speaks: bool = Field(description="It gives words: captions and answers.")


class IndexInfo(_Answer):
    """The index behind the server."""

    clips: int
    dimension: int
    name: str


class Limits(_Answer):
    """The most that a request may ask for."""

    upload_bytes: int
    query_characters: int
    top_k: int


class Info(_Answer):
    """What the page shows before anything is asked for."""

    model: ModelInfo
    index: IndexInfo
    limits: Limits
    facets: dict[str, dict[str, int]] = Field(description="Of each attribute, its values with how many clips have it.")
    examples: list[str] = Field(description="Captions of some clips, to try as queries.")


class ClipAnswer(_Answer):
    """One clip of the index."""

    model_config = _example(_CLIP)
    row: int
    video_id: str
    start_seconds: float
    end_seconds: float | None = Field(description="null: the end of the file.")
    captions: list[str]
    attributes: dict[str, str]
    missing: bool = Field(description="The video is no longer where it was indexed.")
    thumbnail: str
    video: str


class MomentAnswer(_Answer):
    """Where in a clip the query fits best; seconds count from the start of the file."""

    model_config = _example(_MOMENT)
    seconds: float
    score: float
    steps: list[tuple[float, float]] = Field(description="Of each sampled time step, its seconds and its score.")


class Hit(_Answer):
    """One clip that was found."""

    model_config = _example(_HIT)
    rank: int
    score: float = Field(description="Cosine similarity, in [-1, 1].")
    clip: ClipAnswer
    moment: MomentAnswer | None = Field(description="null where the model cannot tell moments apart.")


class SearchAnswer(_Answer):
    """What a search found, best first."""

    model_config = _example({"query": "cutting vegetables", "seconds": 0.012, "hits": [_HIT]})
    query: str
    seconds: float = Field(description="How long it took, the wait for others included.")
    hits: list[Hit]


class CaptionAnswer(_Answer):
    """What the model says that a clip shows."""

    model_config = _example({"caption": "a cook cuts an onion on a board"})
    caption: str


class Asked(_Answer):
    """A question about a video."""

    model_config = _example({"question": "What does the cook cut?"})
    question: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, pattern=r"\S")]


class AnswerAnswer(_Answer):
    """What the model answers."""

    model_config = _example({"answer": "an onion"})
    answer: str


class UploadAnswer(_Answer):
    """An uploaded video, as the model sees it."""

    model_config = _example(
        {
            "upload": "0f8c1d6a5b7e4c0d9a2b3c4d5e6f7081",
            "seconds": 8.4,
            "thumbnail": "/api/uploads/0f8c1d6a5b7e4c0d9a2b3c4d5e6f7081/thumbnail",
            "video": "/api/uploads/0f8c1d6a5b7e4c0d9a2b3c4d5e6f7081/video",
            "caption": "a dog runs over a lawn",
            "tags": [["dog", 0.3], ["running", 0.22]],
            "similar": [{**_HIT, "moment": None}],
        }
    )
    upload: str
    seconds: float = Field(description="How long the video is.")
    thumbnail: str
    video: str
    caption: str | None = Field(description="null for a model that gives no words.")
    tags: list[tuple[str, float]] = Field(
        description="Captions and attributes of the index that are near, with scores."
    )
    similar: list[Hit]


class ErrorBody(_Answer):
    """Why a request failed."""

    code: str = Field(description="A short word that stays.")
    message: str


class ErrorAnswer(_Answer):
    """The one shape of every failure."""

    model_config = _example(
        {"error": {"code": "query_too_long", "message": "the query has 10,000 characters; at most 1,000 are taken"}}
    )
    error: ErrorBody


_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}}


Responses = dict[int | str, dict[str, Any]]


def linked(parameter: str, place: str, *operations: str) -> Responses:
    """For OpenAPI: the value at `place` of an answer is that parameter of further operations."""
    found = {name: {"operationId": name, "parameters": {parameter: f"$response.body#{place}"}} for name in operations}
    return {200: {"links": found}}


def errors(**statuses: str) -> Responses:
    """The failures of an operation for OpenAPI: ``s404="why"``."""
    found: Responses = {}
    for name, why in statuses.items():
        status = int(name[1:])
        found[status] = {"model": ErrorAnswer, "description": why, **({"headers": _RETRY} if status == 503 else {})}
    return found
