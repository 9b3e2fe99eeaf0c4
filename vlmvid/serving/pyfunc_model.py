"""The entry point of MLflow's pyfunc flavour ("models from code").

MLflow copies this file into every registered model and executes it to load one. It is the way for
``mlflow models serve`` and ``mlflow.pyfunc.load_model``; `vlmvid.load` executes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

from vlmvid.errors import ConfigError


class EmbedRequest(BaseModel):
    """One row to embed: either `video`, a path that the server can read, or `text`."""

    video: str | None = None
    text: str | None = None


class EmbeddingModel(PythonModel):
    """Rows of videos and texts to embeddings."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that was registered; its hashes are checked."""
        from vlmvid.serving.model import VideoTextModel

        device = (context.model_config or {}).get("device", "auto")
        self._model = VideoTextModel.from_folder(Path(context.artifacts["model"]), device)

    def predict(
        self, context: PythonModelContext, model_input: list[EmbedRequest], params: dict[str, Any] | None = None
    ) -> list[list[float]]:
        """Embed every row.

        Args:
            context: unused here; MLflow passes it.
            model_input: a list of dicts, or a DataFrame with the columns ``video`` and ``text``.
            params: unused.

        Returns:
            One L2-normalised embedding of D floats per row, in order.

        Raises:
            ConfigError: a row has both a video and a text, or neither.
        """
        for row, request in enumerate(model_input):
            if (request.video is None) == (request.text is None):
                raise ConfigError(
                    f"row {row} must have either 'video' or 'text'; got video={request.video!r}, text={request.text!r}"
                )
        videos = iter(self._model.encode_video([r.video for r in model_input if r.video is not None]).tolist())
        texts = iter(self._model.encode_text([r.text for r in model_input if r.text is not None]).tolist())
        return [next(texts if request.video is None else videos) for request in model_input]


set_model(EmbeddingModel())
