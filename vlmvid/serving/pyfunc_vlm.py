"""The entry point of MLflow's pyfunc flavour for a model that answers in words ("models from code").

As `vlmvid.serving.pyfunc_model`, which is that of models that embed: a model from code has one signature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

from vlmvid.serving.requests import local_videos


class AnswerRequest(BaseModel):
    """One row to answer: a video, and a `question`; None asks for a caption.

    `video` is a path below the server's folder of videos (VLMVID_SERVING_ROOT), `video_base64` the bytes of a file.
    """

    video: str | None = None
    video_base64: str | None = None
    question: str | None = None


class AnsweringModel(PythonModel):
    """Rows of videos and questions to words."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that was registered; its hashes are checked."""
        from vlmvid.serving.model import VideoTextModel

        device = (context.model_config or {}).get("device", "auto")
        self._model = VideoTextModel.from_folder(Path(context.artifacts["model"]), device)

    def predict(
        self, context: PythonModelContext, model_input: list[AnswerRequest], params: dict[str, Any] | None = None
    ) -> list[str]:
        """Answer every row, greedily.

        Args:
            context: unused here; MLflow passes it.
            model_input: a list of dicts, or a DataFrame with columns of the names of `AnswerRequest`.
            params: unused.

        Returns:
            One text per row, in order.

        Raises:
            ConfigError: a question that is blank, too long or no text; a row without exactly one video, or with one
                that the server may not read; too many rows or bytes.
            DecodeError: a video cannot be read.
        """
        prompt = self._model.speaker.caption_prompt
        questions = [prompt if row.question is None else row.question for row in model_input]
        with local_videos([row.video for row in model_input], [row.video_base64 for row in model_input]) as paths:
            return self._model.answer(paths, questions)


set_model(AnsweringModel())
