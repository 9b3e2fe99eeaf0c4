"""The web service: a page, and the REST API behind it.

Every request runs on one event loop. Threads embed and search (one), look at videos (one), wait for the decode
workers, and ask which files are there; the loop itself only passes on, so a slow video or a long answer keeps nobody
else waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.video_index import VideoIndex
from vlmvid.serving.web.errors import add_error_handlers
from vlmvid.serving.web.guard import Guard
from vlmvid.serving.web.options import ServeOptions
from vlmvid.serving.web.routes import index_routes
from vlmvid.serving.web.schemas import Health, errors
from vlmvid.serving.web.service import Service
from vlmvid.serving.web.upload_routes import upload_routes

STATIC = Path(__file__).parent / "static"


def make_app(model: VideoTextModel, index: VideoIndex, options: ServeOptions | None = None) -> FastAPI:
    """The service for `model` over `index`.

    Its threads, decode workers and temporary files live from the app's start-up to its shut-down.

    Raises ConfigError when the index was made with other encoders than the model's.
    """
    options = options or ServeOptions()
    service = Service(model, index, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="vlmvid",
        summary="Search videos by text, find similar ones, upload one's own, ask questions.",
        version=version("vlmvid"),
        lifespan=lifespan,
        # Their pages load scripts from the network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses=errors(s403="The server does not answer to this name, or to pages of other sites."),
    )
    app.state.refuse_waiting = service.refuse_waiting
    add_error_handlers(app)

    @app.get("/health", tags=["health"], summary="Whether the server answers")
    async def health() -> Health:
        return Health(status="ok", clips=index.num_clips)

    app.include_router(index_routes(service))
    app.include_router(upload_routes(service))
    _add_page(app)
    app.add_middleware(Guard, hosts=options.hosts)
    return app


def _add_page(app: FastAPI) -> None:
    """One route for each file of the page, and the page itself at ``/``; there is no way to any other file."""
    files = StaticFiles(directory=STATIC)

    def route_to(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def give(request: Request) -> Response:
            return await files.get_response(name, request.scope)

        return give

    for name in sorted(path.name for path in STATIC.iterdir() if path.is_file()):
        app.add_route("/" if name == "index.html" else f"/{name}", route_to(name))
