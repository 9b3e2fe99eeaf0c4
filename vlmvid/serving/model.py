"""A model ready for use: paths and texts in, comparable embeddings or words out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.digests import sha256_file
from vlmvid.config.load import validate
from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.models.alignment import load_alignment
from vlmvid.models.saving import load_text, load_vision
from vlmvid.models.vlm.generation import GenerationSettings
from vlmvid.models.vlm.reward import load_reward
from vlmvid.models.vlm.saving import load_vlm
from vlmvid.serving.description import description_html, description_text
from vlmvid.serving.dual_encoder import DualEncoder
from vlmvid.serving.model_folder import (
    ANSWERS,
    CAPTION_PROMPT,
    MANIFEST,
    embedding_digest,
    read_decode,
    read_stored,
    verify_model_folder,
)
from vlmvid.serving.search_results import SearchResults, search_texts
from vlmvid.serving.speaker import Asked, Ranking, Speaker, choice_question
from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.visual_features import ClipFeatures, Reads, StoredAs, VisualFeatures

_CLIPS_PER_BATCH = 64
_PROMPTS_PER_BATCH = 16
Path_ = str | Path
T = TypeVar("T")


class VideoTextModel:
    """Videos and texts in one space, or videos to words, or both, as the model has the parts.

    Attributes:
        decode: how a video becomes frames; the same as in training.
        info: what `model.json` says about the model, e.g. the recipe's name.
        digest: sha256 of `model.json`, which lists the hashes of all other files; empty for a model of no folder.
        embedding_digest: of what decides embeddings alone; those of models with the same can be compared.
    """

    def __init__(
        self,
        vision: VisualFeatures,
        info: Mapping[str, Any],
        *,
        encoder: DualEncoder | None = None,
        speaker: Speaker | None = None,
        speaker_vision: VisualFeatures | None = None,
        digest: str = "",
        embedding_digest: str = "",
    ) -> None:
        self._vision = vision
        self._speaker_vision = speaker_vision or vision
        self._encoder = encoder
        self._speaker = speaker
        self.decode: DecodeConfig = vision.decode
        self.info = dict(info)
        self.digest = digest
        self.embedding_digest = embedding_digest

    @classmethod
    def from_folder(cls, folder: Path, device: str = "auto") -> VideoTextModel:
        """The model in `folder`, after checking its hashes; raises ArtifactError for a damaged one."""
        manifest = verify_model_folder(folder)
        info = manifest["info"]
        decode, stored = read_decode(folder), read_stored(folder)
        encoder = None
        if (folder / "alignment").is_dir():
            encoder = DualEncoder(load_text(folder / "text", device), load_alignment(folder / "alignment", device))
        own = None
        if (folder / "vlm_vision").is_dir():
            own = VisualFeatures(load_vision(folder / "vlm_vision", device), decode, stored)
        return cls(
            # What a backbone that was trained along gave was never kept, and so never rounded.
            VisualFeatures(
                load_vision(folder / "vision", device),
                decode,
                StoredAs() if "vision" in info.get("adapted", ()) else stored,
            ),
            info,
            encoder=encoder,
            speaker=_load_speaker(folder, info, device) if (folder / "vlm").is_dir() else None,
            speaker_vision=own,
            digest=sha256_file(folder / MANIFEST),
            embedding_digest=embedding_digest(manifest["files"]),
        )

    @property
    def name(self) -> str:
        """The recipe that made the model; ``model`` where its folder does not say."""
        return str(self.info.get("recipe", "model"))

    @property
    def embeds(self) -> bool:
        """Whether it compares videos with texts: it has an alignment."""
        return self._encoder is not None

    @property
    def speaks(self) -> bool:
        """Whether it says things of videos: it has a vision-language model."""
        return self._speaker is not None

    @property
    def parts(self) -> dict[str, str]:
        """What the model consists of and what it sees of a video, in words, by part."""
        seen = self._vision.describe()
        encoder = self._encoder.describe() if self._encoder else {}
        speaker = self._speaker.describe() if self._speaker else {}
        return {"vision": seen["vision"], **encoder, **speaker, "frames": seen["frames"]}

    def __repr__(self) -> str:
        return description_text(self)

    def _repr_html_(self) -> str:
        return description_html(self)

    @property
    def embed_dim(self) -> int:
        """D, the size of the shared space; as all of embedding, raises ConfigError for a model without an alignment."""
        return self._dual.embed_dim

    @property
    def reads(self) -> Reads:
        """What the pooling of the alignment reads: one feature per time step, or patch tokens."""
        return self._dual.reads

    def encode_video(self, paths: Sequence[Path_]) -> NDArray[np.float32]:
        """Embed whole video files.

        Args:
            paths: N files; the frames are sampled over the file's whole length.

        Returns:
            float32 (N, D), L2-normalised, in the order of `paths`.

        Raises:
            ConfigError: the model has no alignment.
            DecodeError: a file cannot be read.
        """
        parts = [np.empty((0, self.embed_dim), np.float32)]
        for some in _batches(paths, _CLIPS_PER_BATCH):
            features = [self._vision.of_file(path, self.reads).values for path in some]
            parts.append(self.embed_video_features(np.stack(features)))
        return np.concatenate(parts)

    def embed_video_features(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """What the vision backbone made of N clips to embeddings (N, D), L2-normalised.

        Frame features (N, S, C), or patch tokens (N, S, P, C) where `reads` is ``tokens``.
        """
        return self._dual.embed_features(features)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed M texts; float32 (M, D), L2-normalised, in the order of `texts`."""
        return self._dual.embed_texts(texts)

    def similarity(self, video: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of every video (N, D) with every text (M, D): float32 (N, M) in [-1, 1]."""
        return np.asarray(video @ text.T, dtype=np.float32)

    def search(
        self,
        index: VideoIndex | Path_,
        texts: str | Sequence[str],
        top_k: int = 5,
        where: Mapping[str, Sequence[str]] | None = None,
    ) -> SearchResults:
        """The clips of an index that are nearest to a text, or to each of several.

        Args:
            index: an open index, or its folder, made by ``vlmvid index`` with this model.
            texts: what to look for.
            top_k: how many clips for each text.
            where: attribute name -> values of which a clip must have one.

        Raises:
            ArtifactError: the folder holds no index.
            ConfigError: an index of another model, an empty or too long text, or what `VideoIndex.search` refuses.
        """
        opened = VideoIndex.open(index) if isinstance(index, Path_) else index
        return search_texts(opened, self, [texts] if isinstance(texts, str) else texts, top_k, where)

    # A str is a sequence of str to a type checker, and one path here.
    @overload
    def caption(self, videos: Path_, settings: GenerationSettings | None = None, best_of: int = 1) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def caption(
        self, videos: Sequence[Path_], settings: GenerationSettings | None = None, best_of: int = 1
    ) -> list[str]: ...

    def caption(
        self, videos: Path_ | Sequence[Path_], settings: GenerationSettings | None = None, best_of: int = 1
    ) -> str | list[str]:
        """Say what whole video files show: one text for one file, a list for a sequence.

        Args:
            videos: one file, or several.
            settings: how texts are generated; None = greedily.
            best_of: so many texts are drawn, and the one that the model's reward model prefers is given.

        Raises:
            ConfigError: the model has no vision-language model; for `best_of`, no reward model, or settings that do
                not draw.
            DecodeError: a file cannot be read.
        """
        return self.answer(videos, self.speaker.caption_prompt, settings, best_of)

    @overload
    def answer(  # type: ignore[overload-overlap]
        self, videos: Path_, questions: str, settings: GenerationSettings | None = None, best_of: int = 1
    ) -> str: ...

    @overload
    def answer(
        self,
        videos: Path_ | Sequence[Path_],
        questions: str | Sequence[str],
        settings: GenerationSettings | None = None,
        best_of: int = 1,
    ) -> list[str]: ...

    def answer(
        self,
        videos: Path_ | Sequence[Path_],
        questions: str | Sequence[str],
        settings: GenerationSettings | None = None,
        best_of: int = 1,
    ) -> str | list[str]:
        """Answer questions about whole video files: one text for one of each, else a list.

        One file goes with every question and one question with every file; of several of both, the first with the
        first and so on. Raises as `caption`, and ConfigError for other numbers of both and for a bad question: one that
        is blank, too long for the language model, or no text.
        """
        speaker = self.speaker
        paths = [videos] if isinstance(videos, Path_) else list(videos)
        texts = [questions] if isinstance(questions, str) else list(questions)
        if isinstance(videos, Path_):
            paths *= len(texts)
        elif isinstance(questions, str):
            texts *= len(paths)
        if len(paths) != len(texts):
            raise ConfigError(f"{len(paths)} videos and {len(texts)} questions; give one of either, or as many of both")
        found: list[str] = []
        asked = [Asked(path, path, text) for path, text in zip(map(str, paths), texts, strict=True)]
        for some in _batches(asked, _PROMPTS_PER_BATCH):
            found += speaker.answers(self._seen(one.clip for one in some), some, settings, best_of)
        return found[0] if isinstance(videos, Path_) and isinstance(questions, str) else found

    def stream_answer(self, video: Path_, question: str, settings: GenerationSettings | None = None) -> Iterator[str]:
        """The pieces of one answer as they are generated; raises as `answer`."""
        asked = Asked(str(video), str(video), question)
        return self.speaker.stream(self._seen([asked.clip]), asked, settings)

    def rank(self, video: Path_, question: str, choices: Sequence[str]) -> NDArray[np.float32]:
        """The log-probability, in nats, of every choice as the answer: float32 (len(choices),); raises as `answer`, and
        ConfigError for no choices or a blank one.

        Asked and counted as in the model's evaluation (`Speaker.ranking`); of yes and no the case does not matter.
        """
        asked = choice_question(str(video), question, choices)
        return self.speaker.rank(self._seen([str(video)]), [(str(video), asked)])[0]

    @property
    def speaker(self) -> Speaker:
        """The vision-language model on features; raises ConfigError when there is none."""
        if self._speaker is None:
            raise ConfigError(
                "this model compares videos with texts and gives no words: it has no vision-language model; use "
                "encode_video and encode_text, or register one from a recipe with a 'train_vlm' section"
            )
        return self._speaker

    @property
    def vision(self) -> VisualFeatures:
        """What makes the features that are embedded."""
        return self._vision

    @property
    def speaker_vision(self) -> VisualFeatures:
        """What makes the features that the vision-language model reads."""
        return self._speaker_vision

    def _seen(self, paths: Iterable[str]) -> dict[str, ClipFeatures]:
        return {path: self._speaker_vision.of_file(path, self.speaker.reads) for path in dict.fromkeys(paths)}

    @property
    def _dual(self) -> DualEncoder:
        if self._encoder is None:
            raise ConfigError(
                "this vision-language model has no alignment, so it embeds neither videos nor texts; use caption and "
                "answer, or register one from a recipe with an 'align' section"
            )
        return self._encoder


def _load_speaker(folder: Path, info: Mapping[str, Any], device: str) -> Speaker:
    if not isinstance(info.get(CAPTION_PROMPT), str):
        raise ArtifactError(f"{folder}: model.json has no {CAPTION_PROMPT!r} among its info; register the model again")
    reward = None
    if (folder / "reward").is_dir():
        reward = load_reward(folder / "reward", load_vlm(folder / "reward", device))
    ranking = validate(Ranking, info.get(ANSWERS, {}), source=f"{folder}: model.json, info.{ANSWERS}")
    return Speaker(load_vlm(folder / "vlm", device), info[CAPTION_PROMPT], reward, ranking)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
