"""VQA v2: questions about COCO's pictures of 2014, every picture a clip of one frame with all its questions.

Reads the authors' files: questions (``data_subtype``, ``questions`` with ``question_id``, ``image_id`` and
``question``) and annotations (``annotations`` with ``question_id``, ``answer_type``, ``question_type`` and
``multiple_choice_answer``, the most frequent of ten answers, which is the answer here). The pictures are
``train2014/COCO_train2014_000000000009.jpg`` and their like.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from vlmvid.config.base import Config
from vlmvid.data.annotated import AnnotatedDataset
from vlmvid.data.base import Defect
from vlmvid.data.probes import YES_NO
from vlmvid.data.tables import read_annotations
from vlmvid.errors import DatasetError
from vlmvid.types import Clip, Question, Split


class Vqav2Options(Config):
    """`root` holds the folders of pictures; the files are relative to it. None = that part is not read.

    `val_split` says what the authors' validation pictures are here: the answers of their test are not public.
    """

    root: str
    train_questions: str | None = "v2_OpenEnded_mscoco_train2014_questions.json"
    train_annotations: str | None = "v2_mscoco_train2014_annotations.json"
    val_questions: str | None = "v2_OpenEnded_mscoco_val2014_questions.json"
    val_annotations: str | None = "v2_mscoco_val2014_annotations.json"
    val_split: Literal["val", "test"] = "val"

    @model_validator(mode="after")
    def _files_come_in_pairs(self) -> Self:
        for part in ("train", "val"):
            questions, answers = (getattr(self, f"{part}_{kind}") for kind in ("questions", "annotations"))
            if (questions is None) != (answers is None):
                raise ValueError(
                    f"{part}_questions={questions!r} and {part}_annotations={answers!r}: give both, or null for both"
                )
        return self


class Vqav2Dataset(AnnotatedDataset):
    """Pictures in the order in which questions first name them, each a clip with all its questions.

    A question without an answer or words is a defect of its own, ``missing_answer``, named by its id.
    """

    options_class = Vqav2Options
    options: Vqav2Options

    def annotation_files(self) -> tuple[str | None, ...]:
        """Questions and annotations."""
        options = self.options
        return options.train_questions, options.train_annotations, options.val_questions, options.val_annotations

    def read(self) -> tuple[list[Clip], list[Defect]]:
        """Clips, and what could not become one, split after split."""
        options = self.options
        parts: tuple[tuple[str | None, str | None, Split], ...] = (
            (options.train_questions, options.train_annotations, "train"),
            (options.val_questions, options.val_annotations, options.val_split),
        )
        clips: list[Clip] = []
        defects: list[Defect] = []
        for questions, answers, split in parts:
            if questions is not None and answers is not None:
                self._read_part(self._root / questions, self._root / answers, split, (clips, defects))
        return clips, defects

    def _read_part(
        self, path: Path, annotations_path: Path, split: Split, found: tuple[list[Clip], list[Defect]]
    ) -> None:
        asked, told = read_annotations(path, dict), read_annotations(annotations_path, dict)
        by_image: dict[int, list[Question]] = {}
        try:
            if asked["data_subtype"] != told["data_subtype"]:
                raise DatasetError(
                    f"{path} is of {asked['data_subtype']!r} and {annotations_path} of {told['data_subtype']!r}; take "
                    "files that fit together"
                )
            folder = str(asked["data_subtype"])
            answers = {int(annotation["question_id"]): annotation for annotation in told["annotations"]}
            for question in asked["questions"]:
                number, image = int(question["question_id"]), int(question["image_id"])
                made = _question(number, str(question["question"]), answers.get(number))
                if made is None:
                    words = (
                        f"{path}: question {number} of image {image} has no words, or no answer in {annotations_path}"
                    )
                    found[1].append(Defect(f"{folder}/question_{number}", str(path), "missing_answer", words))
                else:
                    by_image.setdefault(image, []).append(made)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"{path} and {annotations_path} are not VQA v2's: {error!r}; expected data_subtype, questions with "
                "question_id, image_id and question, annotations with question_id, answer_type, question_type and "
                "multiple_choice_answer"
            ) from error
        for image, questions in by_image.items():
            video_id = f"{folder}/COCO_{folder}_{image:012d}"
            place = self._root / f"{video_id}.jpg"
            found[0].append(Clip(video_id=video_id, path=str(place), split=split, questions=tuple(questions)))


def _question(number: int, text: str, annotation: Mapping[str, Any] | None) -> Question | None:
    """The question with its answer; None without either."""
    answer = "" if annotation is None else str(annotation["multiple_choice_answer"]).strip()
    if annotation is None or not answer or not text.strip():
        return None
    attributes = {name: str(annotation[name]) for name in ("answer_type", "question_type")}
    return open_or_yes_no(str(number), text.strip(), answer, attributes)


def open_or_yes_no(question_id: str, text: str, answer: str, attributes: Mapping[str, str] | None = None) -> Question:
    """A ``yes_no`` question where the answer is yes or no in any case, else an ``open`` one."""
    is_yes_no = answer.lower() in YES_NO
    return Question(
        question_id=question_id,
        kind="yes_no" if is_yes_no else "open",
        question=text,
        answer=answer.lower() if is_yes_no else answer,
        choices=YES_NO if is_yes_no else (),
        attributes=dict(attributes or {}),
    )
