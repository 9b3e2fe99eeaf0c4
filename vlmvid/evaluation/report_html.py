"""A report's page as one HTML file: no script, nothing from the network, pictures and styles inside."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING

from vlmvid.evaluation.report_page import Cards, Facts, Figure, Page, Paragraph, Printed, Table

if TYPE_CHECKING:
    from jinja2 import Template

_KINDS = {Paragraph: "paragraph", Facts: "facts", Table: "table", Figure: "figure", Cards: "cards", Printed: "printed"}


def html_page(page: Page) -> str:
    """The page as HTML; every text in it is escaped, drawings are written as they are."""
    return _template().render(page=page) + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vlmvid.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, name: _KINDS[type(block)] == name
    environment.filters["webp"] = lambda image: f"data:image/webp;base64,{base64.b64encode(image).decode()}"
    return environment.get_template("report.html.j2")
