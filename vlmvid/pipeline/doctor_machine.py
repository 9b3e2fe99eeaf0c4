"""Checks of this machine: versions, disks, codecs, readers, GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vlmvid.artifacts.mirror import cache_folder
from vlmvid.pipeline.findings import Finding, error, ok, warning

SHOWN = ("vlmvid", "prefect", "mlflow", "torch", "av", "numpy")
LITTLE_BYTES, TOO_LITTLE_BYTES = 10 * 10**9, 10**9
FEW_INODES = 10_000
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph", "lustre")
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
CLOCK_SECONDS = 2.0
IMPORT_SECONDS = 50.0
# In a process of its own: these may take half a minute, and a library of the wrong build may end the process.
_LOOK = """
import json, sys, time
found = {}
for name in sys.argv[1].split(","):
    started = time.perf_counter()
    try:
        module = __import__(name)
        found[name] = {"version": str(getattr(module, "__version__", "")), "error": ""}
    except BaseException as error:
        found[name] = {"version": "", "error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    found[name]["seconds"] = time.perf_counter() - started
torch = sys.modules.get("torch")
if torch is not None and hasattr(torch, "cuda"):
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found["gpu"] = {
        "build": torch.version.cuda or "",
        "names": [torch.cuda.get_device_name(i) for i in range(count)],
        "mps": bool(torch.backends.mps.is_available()),
    }
print(json.dumps(found))
"""


def versions() -> list[Finding]:
    """Python and the packages against what vlmvid declares."""
    try:
        about = importlib.metadata.metadata("vlmvid")
    except importlib.metadata.PackageNotFoundError:
        mend = "install it: pip install -c constraints.txt -e ."
        return [warning("versions", f"vlmvid is not installed as a package; Python {platform.python_version()}", mend)]
    findings = [_python(about["Requires-Python"] or "")]
    wrong = []
    for text in importlib.metadata.requires("vlmvid") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            wrong += _unmet(requirement)
    seen = ", ".join(f"{name} {_version(name)}" for name in SHOWN)
    if wrong:
        mend = "pip install -c constraints.txt -e . (constraints.txt holds the versions that are tested together)"
        return [*findings, error("packages", f"{'; '.join(wrong)} ({seen})", mend)]
    return [*findings, ok("packages", seen)]


def _python(wanted: str) -> Finding:
    found = platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return ok("python", f"{found} at {sys.executable}")
    return error("python", f"{found}; vlmvid needs {wanted}", f"make a virtual environment with Python {wanted}")


def _unmet(requirement: Requirement) -> list[str]:
    found = _version(requirement.name)
    if found == "is not installed":
        return [f"{requirement.name} {found}"]
    if requirement.specifier.contains(found, prereleases=True):
        return []
    return [f"{requirement.name} {found}, tested with {requirement.specifier}"]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"


def disks(home: str) -> list[Finding]:
    """Room, permission, kind of file system and its clock, of the store, the cache and the temporary folder."""
    places = {} if "://" in home else {"disk of the store": Path(home).expanduser().absolute()}
    places |= {"disk of VLMVID_CACHE": cache_folder(), "disk of temporary files": Path(tempfile.gettempdir())}
    return [finding for name, path in places.items() for finding in _disk(name, path)]


def _disk(name: str, path: Path) -> list[Finding]:
    # Of pathlib it raises where a folder is closed to us.
    there = next(folder for folder in (path, *path.parents) if os.path.isdir(folder))
    free = shutil.disk_usage(there).free
    seen = f"{path}: {free / 10**9:.1f} GB free"
    variable = {"disk of the store": "VLMVID_HOME", "disk of VLMVID_CACHE": "VLMVID_CACHE"}.get(name, "TMPDIR")
    elsewhere = f"free some (`vlmvid gc`), or set {variable} to a folder on another disk"
    findings = []
    try:
        with tempfile.NamedTemporaryFile(prefix=".vlmvid-scratch-", dir=there) as file:
            skew = os.stat(file.name).st_mtime - time.time()
    except OSError as problem:
        return [error(name, f"{there} is not writable: {problem}", f"set {variable} to a folder that you may write")]
    if free < TOO_LITTLE_BYTES:
        findings.append(error(name, seen, elsewhere))
    elif free < LITTLE_BYTES:
        findings.append(warning(name, seen, elsewhere))
    else:
        findings.append(ok(name, seen))
    inodes = os.statvfs(there).f_favail if hasattr(os, "statvfs") else 0
    if hasattr(os, "statvfs") and os.statvfs(there).f_files and inodes < FEW_INODES:
        findings.append(warning(name, f"{there}: {inodes} files can still be made", elsewhere))
    if abs(skew) > CLOCK_SECONDS:
        mend = "set both clocks by NTP: the ages that gc and resuming go by are wrong otherwise"
        findings.append(warning(name, f"{there}: its clock differs from this machine's by {skew:+.0f} s", mend))
    kind = _file_system(there)
    if kind in NETWORK_FILE_SYSTEMS and variable == "VLMVID_HOME":
        mend = (
            "set MLFLOW_TRACKING_URI to a server (SQLite is not safe there), and see that the mount passes on file "
            "locks, or run one recipe on one machine at a time"
        )
        findings.append(warning(name, f"{there} is a network file system ({kind})", mend))
    return findings


def _file_system(path: Path) -> str:
    """The kind of file system that holds `path`; empty where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = {fields[1].replace("\\040", " "): fields[2] for fields in (line.split() for line in lines)}
    real = path.resolve()
    return next((mounts[str(folder)] for folder in (real, *real.parents) if str(folder) in mounts), "")


def codecs() -> list[Finding]:
    """What PyAV's FFmpeg decodes, and H.264 encoding, which generated videos need."""
    try:
        import av
    except ImportError as problem:
        return [error("codecs", f"PyAV cannot be imported: {problem}", "pip install -c constraints.txt av")]
    missing = [name for name in CODECS if not _has_codec(av, name, "r")]
    seen = f"av {av.__version__} decodes {', '.join(name for name in CODECS if name not in missing)}"
    mend = "install PyAV's own wheel, which brings FFmpeg: pip install --force-reinstall --no-deps av"
    if not _has_codec(av, "libx264", "w"):
        return [error("codecs", f"{seen}; it lacks libx264, with which generated videos are written", mend)]
    if missing:
        return [error("codecs", f"{seen}, not {', '.join(missing)}", mend)]
    return [ok("codecs", seen)]


def _has_codec(av: object, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)  # type: ignore[attr-defined]
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def heavy_packages(reader: str = "auto") -> list[Finding]:
    """Whether decord and torchcodec load, and the GPU, where torch has to be asked; `reader` is the recipe's."""
    names = [name for name in ("decord", "torchcodec") if _version(name) != "is not installed"]
    driver = _driver()
    asks_torch = bool(driver) or "torchcodec" in names or (sys.platform == "darwin" and platform.machine() == "arm64")
    names = [*(["torch"] if asks_torch else []), *names]
    found = _look(names) if names else {}
    if isinstance(found, str):
        return [error("readers and GPU", found, f"try it: {sys.executable} -c 'import {', '.join(names)}'")]
    findings = [_reader(name, found.get(name), reader) for name in ("decord", "torchcodec")]
    return [*findings, _gpu(found, driver)]


def _look(names: list[str]) -> dict[str, dict[str, object]] | str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK, ",".join(names)],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing {', '.join(names)} took more than {IMPORT_SECONDS:g} s"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"importing {', '.join(names)} ended the process with {done.returncode}: {last}"
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _reader(name: str, found: dict[str, object] | None, wanted: str) -> Finding:
    label = f"reader {name}"
    if found is not None and not found["error"]:
        return ok(label, f"{_version(name)} loads")
    seen = "not installed" if found is None else f"{_version(name)} does not load: {found['error']}"
    mend = (
        "pip install 'vlmvid[torchcodec]', and FFmpeg's shared libraries"
        if name == "torchcodec"
        else "pip install decord"
    )
    if wanted == name:
        return error(label, f"{seen}; the recipe's decode.reader asks for it", f"{mend}; or set decode.reader: auto")
    return ok(label, f"{seen}; PyAV reads without it")


def _driver() -> str:
    """The NVIDIA driver's version; empty when there is no such GPU."""
    path = Path("/proc/driver/nvidia/version")
    if path.is_file():
        words = path.read_text(encoding="utf-8", errors="replace").split("\n")[0].split()
        return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")
    return "of unknown version" if shutil.which("nvidia-smi") else ""


def _gpu(found: dict[str, dict[str, object]], driver: str) -> Finding:
    if "gpu" not in found:
        problem = found.get("torch", {}).get("error")
        if problem:
            return error("GPU", f"torch does not load: {problem}", "pip install -c constraints.txt torch")
        return ok("GPU", f"none; torch {_version('torch')} computes on the CPU")
    gpu, seconds = found["gpu"], float(str(found["torch"]["seconds"]))
    about = f"torch {_version('torch')}, imported in {seconds:.1f} s"
    names = gpu["names"]
    if isinstance(names, list) and names:
        return ok("GPU", f"{', '.join(map(str, names))}; driver {driver}, CUDA {gpu['build']}; {about}")
    if gpu["mps"]:
        return ok("GPU", f"Apple's (mps); {about}")
    if not driver:
        return ok("GPU", f"none; {about}, computes on the CPU")
    if not gpu["build"]:
        mend = "install the CUDA build: pip install --force-reinstall torch torchvision (pytorch.org names the index)"
        return error("GPU", f"an NVIDIA driver ({driver}), but {about} is built without CUDA", mend)
    mend = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; the driver must be as new as the build's CUDA asks"
    return error("GPU", f"driver {driver}, {about} is built for CUDA {gpu['build']}, and sees no device", mend)
