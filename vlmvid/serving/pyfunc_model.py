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
from vlmvid.serving.requests import local_videos, require_few_rows


class EmbedRequest(BaseModel):
    """One row to embed: `text`, or a video.

    `video` is a path below the server's folder of videos (VLMVID_SERVING_ROOT), `video_base64` the bytes of a file.
    """

    video: str | None = None
    video_base64: str | None = None
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
            model_input: a list of dicts, or a DataFrame with columns of the names of `EmbedRequest`.
            params: unused.

        Returns:
            One L2-normalised embedding of D floats per row, in order.

        Raises:
            ConfigError: a row has not exactly one of its values, or a video that the server may not read; the request
                has too many rows or bytes.
            DecodeError: a video cannot be read.
        """
        require_few_rows(len(model_input))
        for row, request in enumerate(model_input):
            given = [name for name, value in request.model_dump().items() if value is not None]
            if len(given) != 1:
                raise ConfigError(
                    f"row {row} must have exactly one of 'video', 'video_base64' and 'text'; got {given or 'none'}"
                )
        seen = [request for request in model_input if request.text is None]
        with local_videos([row.video for row in seen], [row.video_base64 for row in seen]) as paths:
            videos = iter(self._model.encode_video(paths).tolist() if paths else [])
        texts = iter(self._model.encode_text([r.text for r in model_input if r.text is not None]).tolist())
        return [next(videos if request.text is None else texts) for request in model_input]


set_model(EmbeddingModel())
