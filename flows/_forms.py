"""The fields of the flows' forms: what Prefect shows, and what its server refuses before anything starts.

Plain types only: the forms of unions and of None are where Prefect's UI has had its faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field


def form_field(title: str, description: str, **rules: Any) -> Any:
    """A field with a title and a description; `rules` as pydantic's Field has them.

    Prefect writes the parameter's name over a field's own title and drops its description, but leaves the extras.
    """
    return Field(json_schema_extra={"title": title, "description": description}, **rules)


RecipeFile = Annotated[
    str,
    form_field(
        "Recipe", "A YAML file, seen from the folder the worker was started in, or an absolute path.", min_length=1
    ),
]
Overrides = Annotated[
    Sequence[str], form_field("Overrides", "Keys of the recipe to change, one a line: align.optim.lr=0.001")
]
Home = Annotated[
    str, form_field("Home", "The store, a folder or s3://BUCKET/PREFIX. Empty: VLMVID_HOME of the worker, else .vlmvid")
]
RetryFailed = Annotated[bool, form_field("Retry failed clips", "Try clips again that failed for good.")]
Verify = Annotated[bool, form_field("Verify files", "Hash every source file and stored shard again.")]
EarlierStages = Annotated[
    Literal["run", "require"],
    form_field(
        "Earlier stages",
        "run: first run the stages before this one; what is stored is not computed again. require: fail when the "
        "result of one is missing.",
    ),
]

ModelName = Annotated[str, form_field("Model name", "A registered model in MLflow.", min_length=1)]
PromotionAction = Annotated[
    Literal["promote", "rollback"],
    form_field(
        "Action",
        "promote: move the alias to the candidate if it passes the gates. rollback: move it back to the version it "
        "pointed to before.",
    ),
]
Candidate = Annotated[
    str, form_field("Candidate", "What is to be promoted: an alias or a version number of the model.", min_length=1)
]
Alias = Annotated[str, form_field("Alias", "The alias that moves, by which the model is loaded.", min_length=1)]
Gates = Annotated[str, form_field("Gates", "A YAML file of gates, found as a recipe is.", min_length=1)]
TrackingUri = Annotated[
    str,
    form_field("MLflow", "The registry's address. Empty: MLFLOW_TRACKING_URI of the worker, else the home's database."),
]

IndexVideos = Annotated[
    str, form_field("Videos", "A folder of videos, a manifest, or the folder of an encode artifact.", min_length=1)
]
ModelAddress = Annotated[str, form_field("Model", "models:/NAME@champion, or a model folder.", min_length=1)]
IndexFolder = Annotated[
    str, form_field("Index", "The folder of the index, on the worker's machine; made if it is not there.", min_length=1)
]
AcceptCode = Annotated[
    bool, form_field("Accept code change", "Keep what another version of vlmvid has embedded, now and later.")
]
Replace = Annotated[bool, form_field("Replace", "The index may become one of other videos; what is not there goes.")]

Delete = Annotated[bool, form_field("Delete", "Off: only say what would be deleted from the store.")]
OlderThanHours = Annotated[float, form_field("Older than (hours)", "What changed more recently is left alone.", ge=0)]
