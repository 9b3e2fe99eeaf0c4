"""The stage keys and clip keys of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmvid.artifacts import KeyParts, Store, hash_json
from vlmvid.artifacts.code import code_closure, combined_digest, package_versions
from vlmvid.config import Recipe
from vlmvid.config.base import Config
from vlmvid.config.schema import STAGE_ORDER, StageName
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.tracking.outage import without_password

if TYPE_CHECKING:
    from vlmvid.pipeline.sources import Sources

# The modules whose import closure decides a stage's result, and the packages that may decide it.
STAGE_ROOTS: dict[str, tuple[str, ...]] = {
    "curate": ("vlmvid.data.curation",),
    "measure": ("vlmvid.video.measuring",),
    "decode": ("vlmvid.video.clip_decoder",),
    "encode": ("vlmvid.models.clip_encoder",),  # and the module of the recipe's own backbone family
    "text": ("vlmvid.models.text",),
    "filter": ("vlmvid.data.filtering_captions", "vlmvid.data.filtering_features", "vlmvid.models.embedding"),
    "align": ("vlmvid.training.align",),
    "train_vlm": (
        "vlmvid.training.vlm",
        "vlmvid.training.vlm_objectives",
        "vlmvid.models.vlm.adapters",
        "vlmvid.models.vlm.chat",
        "vlmvid.models.vlm.freezing",
        "vlmvid.models.vlm.language",
        "vlmvid.models.vlm.saving",
        "vlmvid.data.instructions.mix",
    ),
    "preference": ("vlmvid.training.vlm_preference",),  # of training stages with such an objective
    "evaluate": ("vlmvid.evaluation.runner", "vlmvid.evaluation.battery", "vlmvid.models.embedding"),
    "register": ("vlmvid.serving.model_folder", "vlmvid.serving.pyfunc_model", "vlmvid.serving.pyfunc_vlm"),
    "search": ("vlmvid.serving.search", "vlmvid.serving.model"),
}
STAGE_PACKAGES: dict[str, tuple[str, ...]] = {
    "ingest": ("av", "numpy", "PIL"),
    "curate": ("numpy", "py3langid", "scipy"),
    "measure": ("av", "numpy", "PIL"),
    "decode": ("av", "decord", "numpy", "PIL", "torchcodec"),
    "encode": ("timm", "torch", "transformers"),
    "text": ("tokenizers", "torch", "transformers"),
    "filter": ("numpy", "sklearn", "timm", "torch"),
    "align": ("numpy", "timm", "torch"),
    "train_vlm": ("numpy", "peft", "timm", "tokenizers", "torch", "transformers"),
    "evaluate": ("numpy", "timm", "torch"),
    "register": (),
    "search": ("numpy", "timm", "torch"),
}
# What of the vision config decides the features, but not the tokens.
_OF_FEATURES = ("feature", "grid_size", "also", "from_tokens")
OPTIONAL_READERS = {"decord", "torchcodec"}
# The results of encode and curate are decided by several pieces of code; these mark the others than the stage's own
# among its code and packages.
DECODE_SUFFIX = " (decode)"
MEASURE_SUFFIX = " (measure)"
TEXT_SUFFIX = " (text)"
PIECES: dict[str, dict[str, str]] = {
    "encode": {"decode": DECODE_SUFFIX, "text": TEXT_SUFFIX},
    "curate": {"measure": MEASURE_SUFFIX},
}


def packet_index_code() -> str:
    """Digest of the code that reads packet indexes."""
    return combined_digest(code_closure(("vlmvid.video.gop.frame_source",))[0], {})[:12]


class StageKeys:
    """Key parts of every stage, from the recipe, the source files and the code as they are now."""

    def __init__(self, recipe: Recipe, store: Store, sources: Sources, registry_uri: Callable[[], str]) -> None:
        self._recipe = recipe
        self._store = store
        self._sources = sources
        self._registry_uri = registry_uri
        self._parts: dict[str, KeyParts] = {}
        self._code: dict[str, tuple[dict[str, str], dict[str, str], bool]] = {}

    def parts(self, stage: StageName) -> KeyParts:
        """What the result of `stage` depends on; raises ConfigError when the recipe lacks the stage.

        Every recipe has `decode`: a run takes the stage only where frames are kept, a user may ask for it.
        """
        if stage not in self._parts:
            if stage not in self._recipe.stages() and stage != "decode":
                raise ConfigError(
                    f"recipe {self._recipe.name!r} has no stage {stage!r}; it runs: "
                    f"{', '.join(self._recipe.stages())}. Add a {stage!r} section to it"
                )
            maker: Callable[[], KeyParts] = getattr(self, f"_{stage}")
            self._parts[stage] = maker()
        return self._parts[stage]

    def key(self, stage: StageName) -> str:
        """The stage key of `stage`."""
        return self.parts(stage).key

    def forget_from(self, stage: StageName) -> None:
        """Work out the parts of `stage` and what follows anew: a revision before them may have changed."""
        for later in STAGE_ORDER[STAGE_ORDER.index(stage) :]:
            self._parts.pop(later, None)

    def forget_after(self, stage: StageName) -> None:
        """Work out the parts of what follows `stage` anew."""
        for later in STAGE_ORDER[STAGE_ORDER.index(stage) + 1 :]:
            self._parts.pop(later, None)

    @property
    def pipeline_key(self) -> str:
        """One key for the whole recipe: the identity of its MLflow parent run."""
        stages = self._recipe.stages()
        # Without the stages' inputs: their revisions are known only once they have run.
        own = [self.parts(stage).model_dump(mode="json", exclude={"inputs"}) for stage in stages if stage != "search"]
        return hash_json([self._recipe.name, self.key("ingest"), own, list(stages)])

    def current_code(self, stage: str) -> tuple[dict[str, str], dict[str, str]]:
        """Module digests and package versions of a stage as they are now."""
        roots = self._sources.code_roots if stage == "ingest" else STAGE_ROOTS[stage]
        if stage == "encode":
            from vlmvid.models.families import backbone_module

            roots = (*roots, backbone_module(self._recipe.encode.vision))
        if stage == "evaluate" and self._recipe.evaluate is not None:
            from vlmvid.pipeline.media import benchmark_modules, vlm_modules

            roots = (*roots, *benchmark_modules(self._recipe.evaluate.benchmarks), *vlm_modules(self._recipe))
        deciding = set(STAGE_PACKAGES[stage])
        if stage in ("align", "evaluate") and self._recipe.adapted_encoders:
            roots = (*roots, "vlmvid.training.end_to_end", "vlmvid.models.saving", "vlmvid.video.augment")
            deciding |= {"peft", "PIL", "tokenizers", "transformers"}
        if stage == "train_vlm" and self._recipe.train_vlm is not None and self._recipe.train_vlm.has_preferences:
            roots = (*roots, *STAGE_ROOTS["preference"])
        modules, packages = code_closure(roots)
        if stage == "decode":
            # Installed readers that the recipe does not name decide nothing: `auto` takes them only where PyAV cannot.
            deciding -= OPTIONAL_READERS - {self._recipe.decode.reader}
        return modules, package_versions(p for p in packages if p in deciding)

    def adopted(self, stage: str) -> bool:
        """Whether the user accepted older code for this stage."""
        return any(self._resolved_code(piece)[2] for piece in (stage, *PIECES.get(stage, {})))

    def code_digest(self, stage: str) -> str:
        """One digest of the code of a stage, as it enters clip keys."""
        code, packages, _ = self._resolved_code(stage)
        return combined_digest(code, packages)

    # Clip keys: what one clip's, or one text's, result depends on.

    def measure_key(self, source_sha256: str, start_seconds: float, end_seconds: float | None) -> str:
        """The clip key of what the curate stage measures."""
        assert self._recipe.curate is not None  # the stage exists only with its section
        num_frames = self._recipe.curate.num_frames
        return hash_json([source_sha256, start_seconds, end_seconds, num_frames, self.code_digest("measure")])

    def decode_key(self, source_sha256: str, start_seconds: float, end_seconds: float | None) -> str:
        """The clip key of the decode stage."""
        return hash_json([source_sha256, start_seconds, end_seconds, self._decode_config, self.code_digest("decode")])

    def encode_key(self, decode_key: str) -> str:
        """The clip key of the encode stage."""
        return hash_json([decode_key, self._vision_config, self.vision_digest, self.code_digest("encode")])

    def tokens_key(self, decode_key: str) -> str:
        """The clip key of kept tokens: the same whatever features are made of them."""
        config = {name: value for name, value in self._vision_config.items() if name not in _OF_FEATURES}
        return hash_json(["tokens", decode_key, config, self.vision_digest, self.code_digest("encode")])

    def features_config(self) -> dict[str, Any]:
        """What decides the stored features besides the code, as JSON values."""
        # The digest of the weights says which they are, also of random ones.
        left_out = {"also", "times", "pretrained", "seed"}
        vision = {name: value for name, value in self._vision_config.items() if name not in left_out}
        return {"decode": self._decode_config, "vision": vision, "weights": self.vision_digest}

    def text_key(self, text: str) -> str:
        """The key of one text's features."""
        return hash_json([text, self._text_config, self.text_digest, self.code_digest("text")])

    @cached_property
    def vision_digest(self) -> str:
        """Digest of the vision weights."""
        from vlmvid.models.weights import vision_weights_digest

        return vision_weights_digest(self._recipe.encode.vision, hash_file=self._hash_file)

    @cached_property
    def text_digest(self) -> str:
        """Digest of the text encoder's weights."""
        from vlmvid.models.weights import text_weights_digest

        return text_weights_digest(self._recipe.encode.needed_text, hash_file=self._hash_file)

    @cached_property
    def packet_index_code(self) -> str:
        """Part of the name under which a packet index is kept."""
        return packet_index_code()

    def _hash_file(self, path: Path) -> str:
        return self._store.digests.digest(path)

    @cached_property
    def _decode_config(self) -> dict[str, Any]:
        return self._recipe.decode.key_config()

    @cached_property
    def _vision_config(self) -> dict[str, Any]:
        config = self._recipe.encode.vision.key_config()
        encode = self._recipe.encode
        return {
            **config,
            "backbone": _without_folder(config["backbone"]),
            "dtype": encode.dtype,
            "also": sorted(encode.also),
            "from_tokens": encode.keep_tokens,  # then features are made of rounded tokens
            **encode.views_key(),
        }

    @cached_property
    def _text_config(self) -> dict[str, Any]:
        config = self._recipe.encode.needed_text.key_config()
        return {**config, "encoder": _without_folder(config["encoder"])}

    def _resolved_code(self, stage: str) -> tuple[dict[str, str], dict[str, str], bool]:
        if stage not in self._code:
            self._code[stage] = self._store.accepted_code(stage, *self.current_code(stage))
        return self._code[stage]

    # Stage parts.

    @property
    def rows_stage(self) -> StageName:
        """The stage whose clips the later ones read."""
        return "ingest" if self._recipe.curate is None else "curate"

    def _ingest(self) -> KeyParts:
        parts = {"inputs": self._sources.key_inputs(), "config": self._sources.key_config()}
        code, packages, _ = self._resolved_code("ingest")
        return KeyParts(stage="ingest", code=code, packages=packages, **parts)

    def _curate(self) -> KeyParts:
        assert self._recipe.curate is not None  # the stage exists only with its section
        return self._make("curate", ("ingest",), {"curate": self._recipe.curate.key_config()})

    def _decode(self) -> KeyParts:
        return self._make("decode", (self.rows_stage,), {"decode": self._decode_config})

    def _encode(self) -> KeyParts:
        # Not the decode artifact but what decides it, so that the key is the same whether frames are kept or not.
        config = {"decode": self._decode_config, "vision": self._vision_config}
        weights = {"vision": self.vision_digest}
        if self._recipe.encode.text is not None:
            config, weights = {**config, "text": self._text_config}, {**weights, "text": self.text_digest}
        parts = self._make("encode", (self.rows_stage,), config)
        return parts.model_copy(update={"weights": weights})

    def _filter(self) -> KeyParts:
        config = self._recipe.filter
        assert config is not None  # the stage exists only with its section
        parts = self._make("filter", ("encode",), {"filter": config.key_config()})
        if config.caption_mixing is not None:
            synthetic = config.caption_mixing.path
            if not synthetic.is_file():
                raise ConfigError(f"filter.caption_mixing.synthetic: {synthetic} is no file; give a JSON Lines file")
            digest = self._hash_file(synthetic)
            parts = parts.model_copy(update={"inputs": {**parts.inputs, "synthetic captions": digest}})
        if config.alignment_score is None:
            return parts
        try:
            weights = {"model": self._model_digest(config.alignment_score.model)}
        except ArtifactError as error:
            raise ConfigError(
                f"filter.alignment_score.model: {error}; train and register one first with a recipe that does not "
                "filter by it"
            ) from error
        return parts.model_copy(update={"weights": weights})

    def _align(self) -> KeyParts:
        config = _dump(self._recipe.align)
        config.pop("checkpoint_every")  # how often to save cannot change what is learnt
        before: tuple[StageName, ...] = ("encode",) if self._recipe.filter is None else ("encode", "filter")
        return self._make("align", before, {"align": config})

    def _train_vlm(self) -> KeyParts:
        from vlmvid.pipeline.vlm_files import file_inputs

        config = self._recipe.train_vlm
        assert config is not None  # the stage exists only with its section
        before: tuple[StageName, ...] = ("encode",) if self._recipe.filter is None else ("encode", "filter")
        if config.visual.aligned:
            before = (*before, "align")
        parts = self._make("train_vlm", before, {"train_vlm": config.key_config()})
        files = file_inputs(config, self._hash_file)
        return parts.model_copy(
            update={"inputs": {**parts.inputs, **files}, "weights": {"language": self.language_digest}}
        )

    def next_token_code(self, code: dict[str, str]) -> dict[str, str]:
        """Of the code of the stage `train_vlm`, what decides training stages without preferences: for these it is the
        same in every recipe.
        """
        plain, _ = code_closure(STAGE_ROOTS["train_vlm"])
        more, _ = code_closure(STAGE_ROOTS["preference"])
        return {module: digest for module, digest in code.items() if module in plain or module not in more}

    @cached_property
    def language_digest(self) -> str:
        """Digest of the files of the language model."""
        from vlmvid.models.vlm.language_files import language_digest

        assert self._recipe.train_vlm is not None  # asked only for a recipe that trains one
        return language_digest(self._recipe.train_vlm.language, hash_file=self._hash_file)

    @property
    def _trained(self) -> tuple[StageName, ...]:
        """The stages whose models are evaluated and registered."""
        recipe = self._recipe
        found: dict[StageName, object] = {"align": recipe.align, "train_vlm": recipe.train_vlm}
        return tuple(name for name, section in found.items() if section is not None)

    def _evaluate(self) -> KeyParts:
        before: tuple[StageName, ...] = (self.rows_stage, "encode", *self._trained)
        config = self._recipe.evaluate
        assert config is not None  # the stage exists only with its section
        parts = self._make("evaluate", before, {"evaluate": config.key_config()})
        return parts.model_copy(update={"inputs": {**parts.inputs, **self.benchmark_inputs}})

    @cached_property
    def benchmark_inputs(self) -> dict[str, str]:
        """A digest of each benchmark's files, looked at once: of their videos too."""
        from vlmvid.pipeline.media import inputs_digest, models_of

        config = self._recipe.evaluate
        benchmarks = () if config is None else config.benchmarks
        models = models_of(self._recipe)
        return {f"benchmark {some.label}": inputs_digest(some, self._hash_file, models) for some in benchmarks}

    def _register(self) -> KeyParts:
        before: tuple[StageName, ...] = ("encode", *self._trained)
        if self._recipe.evaluate is not None:
            before = (*before, "evaluate")
        parts = self._make(
            "register", before, {"register": _dump(self._recipe.register_), "decode": self._decode_config}
        )
        return parts.model_copy(update={"inputs": {**parts.inputs, "registry": without_password(self._registry_uri())}})

    def _search(self) -> KeyParts:
        config = _dump(self._recipe.search)
        model = config.pop("model")
        parts = self._make("search", (self.rows_stage, "encode"), {"search": config})
        if model is None:
            return parts
        return parts.model_copy(update={"weights": {"model": self._model_digest(model)}})

    def _model_digest(self, model: str) -> str:
        """Digest of the model at an address: an alias moves, what counts is the model it names now."""
        from vlmvid.serving.load import fetch_model_folder

        return self._hash_file(fetch_model_folder(model, self._registry_uri()) / "model.json")

    def _make(self, stage: str, inputs: tuple[StageName, ...], config: dict[str, Any]) -> KeyParts:
        code, packages = dict[str, str](), dict[str, str]()
        for piece, suffix in {stage: "", **PIECES.get(stage, {})}.items():
            piece_code, piece_packages, _ = self._resolved_code(piece)
            code |= {f"{name}{suffix}": digest for name, digest in piece_code.items()}
            packages |= {f"{name}{suffix}": version for name, version in piece_packages.items()}
        return KeyParts(
            stage=stage,
            inputs={name: self._store.input_key(name, self.key(name)) for name in inputs},
            config=config,
            code=code,
            packages=packages,
        )


def _without_folder(spec: str) -> str:
    """``hf:/some/folder`` as ``hf:(folder)``: the weights' digest says which model it is, not the place."""
    family, _, name = spec.partition(":")
    return f"{family}:(folder)" if Path(name).is_absolute() else spec


def _dump(config: Config | None) -> dict[str, Any]:
    assert config is not None  # Recipe.stages() names only stages whose section is there
    return config.model_dump(mode="json")
