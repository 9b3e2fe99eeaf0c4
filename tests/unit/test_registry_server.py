"""A registry over HTTP, asked by processes that share nothing else: races, loading elsewhere, tampering, serving."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mlflow_fixtures import MlflowServer
from tests.unit.registry_fixtures import NAME, register_version, shares, tracker_at
from tests.unit.test_serving_load import template
from tests.unit.tracking_fixtures import free_port
from vlmvid.artifacts.digests import sha256_file
from vlmvid.errors import ArtifactError
from vlmvid.serving.load import load
from vlmvid.serving.model_folder import MANIFEST
from vlmvid.tracking import Registration, mlflow_registry
from vlmvid.tracking.registry import KIND, MODEL_DIGEST

ROOT = Path(__file__).resolve().parents[2]
LOAD = """\
import json, sys, vlmvid
model = vlmvid.load(sys.argv[1], device="cpu")
print(json.dumps([model.encode_video([sys.argv[2]]).tolist(), model.encode_text(["a red square"]).tolist()]))
"""


@pytest.fixture(autouse=True)
def has_answered(mlflow_server: MlflowServer) -> None:
    """The first answer of a new server takes longer than trackers wait for one."""
    mlflow_server.client().search_registered_models()


def register_folder(uri: str, home: Path, name: str, folder: Path) -> None:
    tracker = tracker_at(uri, home)
    tracker.start_pipeline(pipeline_key=name, name="demo", config={}, tags={})
    with tracker.stage("register", name) as run:
        tracker.register(
            Registration(
                model_folder=folder,
                model_name=name,
                alias="candidate",
                fingerprint=name,
                tags={KIND: "dual_encoder", MODEL_DIGEST: sha256_file(folder / MANIFEST)},
            ),
            run,
        )
    tracker.finish("FINISHED")


def test_who_registers_while_another_does_leaves_one_version(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two that looked before either had made its version; the second one's is taken back."""
    real = mlflow_registry._versions_of
    blind = [True]

    def late(*given: Any) -> Any:
        return [] if blind and blind.pop() else real(*given)

    assert register_version(mlflow_server.uri, tmp_path, "race", None) == "1"
    monkeypatch.setattr(mlflow_registry, "_versions_of", late)
    assert register_version(mlflow_server.uri, tmp_path, "race", None) == "1"
    client = mlflow_server.client()
    assert [str(version.version) for version in client.search_model_versions(f"name = '{NAME}'")] == ["1"]
    assert str(client.get_model_version_by_alias(NAME, "candidate").version) == "1"


@pytest.mark.long
def test_two_processes_at_once_register_one_version_and_promote_one(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    (tmp_path / "gates.yaml").write_text("kind: dual_encoder\nthresholds: [{metric: vqa/mcq_accuracy, threshold: 0.5}]")
    register = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.unit.registry_fixtures import register_version, shares\nimport tests.unit.registry_fixtures as f\n"
        "import vlmvid.tracking.mlflow_registry\nf.NAME = 'pair'\n"
        "wait(sys.argv[3])\n"
        "print(register_version(sys.argv[1], Path(sys.argv[2]), 'same', [shares(150)]))\n"
    )
    found = at_once([[register, mlflow_server.uri, str(tmp_path / str(n))] for n in range(3)], tmp_path / "a")
    assert [(code, out.strip()) for code, out, _ in found] == [(0, "1")] * 3, found
    client = mlflow_server.client()
    assert len(client.search_model_versions("name = 'pair'")) == 1

    for number in range(3):
        register_version(mlflow_server.uri, tmp_path / "home", f"c{number}", [shares(150)], alias=f"c{number}")
    promote = (
        "import sys\nfrom vlmvid.cli import main\nimport vlmvid.tracking.mlflow_promotion\n"
        "import vlmvid.pipeline.promotion\nwait(sys.argv[4])\n"
        "sys.exit(main(['promote', 'demo', '--candidate', sys.argv[3], '--gates', sys.argv[2], '--tracking-uri', "
        "sys.argv[1]]))\n"
    )
    gates = str(tmp_path / "gates.yaml")
    found = at_once([[promote, mlflow_server.uri, gates, f"c{n}"] for n in range(3)], tmp_path / "b")
    won = [n for n, (code, _, _) in enumerate(found) if code == 0]
    assert won, found
    assert all("PromotionError" in err for n, (_, _, err) in enumerate(found) if n not in won), found
    # A slow process may come when another has finished, and then follow it; never do two follow the same champion.
    versions = {
        version.tags["vlmvid.fingerprint"]: version for version in client.search_model_versions("name = 'demo'")
    }
    followed = [versions[f"c{n}"].tags.get("vlmvid.previous") for n in won]
    assert len(set(followed)) == len(won), followed
    champion = str(client.get_model_version_by_alias(NAME, "champion").version)
    assert champion not in followed and champion in [str(versions[f"c{n}"].version) for n in won]


WAIT = """\
import pathlib, sys, time
def wait(folder):
    place = pathlib.Path(folder)
    (place / sys.argv[-2].replace("/", "_")).touch()
    while not (place / "go").exists():
        time.sleep(0.02)
"""


def at_once(commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """Run Python texts in processes that begin their work, at `wait(FOLDER)`, when all of them are there."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAIT + text, *arguments, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for text, *arguments in commands
    ]
    while len(list(folder.iterdir())) < len(commands) and all(process.poll() is None for process in processes):
        time.sleep(0.1)
    (folder / "go").touch()
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def elsewhere(server: MlflowServer, folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    """Load a model in a process of another folder, home and cache, which has the service's address alone."""
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "VLMVID_HOME"}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "VLMVID_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    command = [sys.executable, "-W", "ignore", "-c", LOAD, uri, str(template()[1])]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.long
def test_another_machine_needs_the_address_alone(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    register_folder(mlflow_server.uri, tmp_path / "home", "far", template()[0])
    mlflow_server.client().set_registered_model_alias("far", "champion", "1")
    shutil.rmtree(tmp_path / "home")
    found = elsewhere(mlflow_server, tmp_path / "there", "models:/far@champion")
    assert found.returncode == 0, found.stderr
    video, text = json.loads(found.stdout)
    model = load(template()[0], device="cpu")
    np.testing.assert_allclose(video, model.encode_video([template()[1]]), atol=1e-6)
    np.testing.assert_allclose(text, model.encode_text(["a red square"]), atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["cache"]


def test_files_that_were_changed_are_refused(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_folder(mlflow_server.uri, tmp_path / "home", "soiled", template()[0])
    uri = "models:/soiled/1"

    def cache(name: str) -> Path:
        monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / name))
        return tmp_path / name

    cached = cache("a")
    load(uri, device="cpu", tracking_uri=mlflow_server.uri)
    change(found := next(cached.rglob("alignment.safetensors")))
    with pytest.raises(ArtifactError, match=r"alignment\.safetensors was changed"):
        load(uri, device="cpu", tracking_uri=mlflow_server.uri)
    # Whoever changes the list of hashes along with the file is found out by the registry.
    manifest = next(cached.rglob(MANIFEST))
    said = json.loads(manifest.read_text())
    said["files"]["alignment/alignment.safetensors"] = {
        "sha256": sha256_file(found),
        "size": found.stat().st_size,
    }
    manifest.write_text(json.dumps(said))
    with pytest.raises(ArtifactError, match=r"model\.json was changed: .* was registered with"):
        load(uri, device="cpu", tracking_uri=mlflow_server.uri)

    stored = [path for path in mlflow_server.folder.rglob("alignment.safetensors") if "soiled" in str(path)]
    assert len(stored) == 1
    change(stored[0])
    cache("b")
    with pytest.raises(ArtifactError, match=r"alignment\.safetensors was changed"):
        load(uri, device="cpu", tracking_uri=mlflow_server.uri)


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")


def test_a_model_that_vlmvid_did_not_make_is_refused_with_what_it_is(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "cache"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: mlflow.sklearn}, sklearn: {pickled_model: model.pkl}}"
    )
    (foreign / "model.pkl").write_bytes(b"boom")
    client = mlflow_server.client()
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(foreign), "model")
    client.create_registered_model("foreign")
    source = f"{client.get_run(run.info.run_id).info.artifact_uri}/model"
    client.create_model_version("foreign", source, run_id=run.info.run_id, await_creation_for=0)
    with pytest.raises(
        ArtifactError, match=r"flavours python_function, sklearn \(loader mlflow\.sklearn\), which vlmvid did"
    ):
        load("models:/foreign/1", tracking_uri=mlflow_server.uri)


@contextmanager
def served(server: MlflowServer, uri: str, folder: Path, **environment: str) -> Iterator[str]:
    """`mlflow models serve` of a model; gives its address."""
    port = free_port()
    mlflow = Path(sys.executable).parent / "mlflow"
    command = [str(mlflow), "models", "serve", "-m", uri, "--env-manager", "local", "--host", "127.0.0.1"]
    settings = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    settings |= {"PYTHONPATH": str(ROOT), "PATH": f"{mlflow.parent}:{os.environ['PATH']}"}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, cwd=folder, env=settings, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "serve.log").read_text()
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(address: str, rows: list[dict[str, Any]]) -> Any:
    body = json.dumps({"inputs": rows}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


@pytest.mark.long
def test_a_served_dual_encoder_embeds_videos_and_texts(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    folder, clip = template()
    register_folder(mlflow_server.uri, tmp_path / "home", "embeds", folder)
    model = load(folder, device="cpu")
    data = base64.b64encode(clip.read_bytes()).decode()
    with served(mlflow_server, "models:/embeds@candidate", tmp_path, VLMVID_SERVING_ROOT=str(clip.parent)) as address:
        found = ask(address, [{"video": clip.name}, {"video_base64": data}, {"text": "a red square"}])
        video, text = model.encode_video([clip]), model.encode_text(["a red square"])
        np.testing.assert_allclose(found, np.concatenate([video, video, text]), atol=1e-5)
        assert "not below the folder" in ask(address, [{"video": "/etc/passwd"}])
        assert "not below the folder" in ask(address, [{"video": "http://127.0.0.1:1/a.mp4"}])


@pytest.mark.long
def test_a_served_vision_language_model_answers(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    from tests.unit.test_serving_vlm import folder_with, speaking, videos

    clip = Path(videos()[0])
    register_folder(mlflow_server.uri, tmp_path / "home", "speaks", folder_with("vision", "vlm"))
    data = base64.b64encode(clip.read_bytes()).decode()
    with served(mlflow_server, "models:/speaks@candidate", tmp_path) as address:
        rows = [{"video_base64": data, "question": "what moves?"}, {"video_base64": data}]
        assert ask(address, rows) == [speaking().answer(clip, "what moves?"), speaking().caption(clip)]
        assert "VLMVID_SERVING_ROOT is not set" in ask(address, [{"video": str(clip)}])
