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
