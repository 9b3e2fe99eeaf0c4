"""Which files may be opened: local, regular, inside the data root; everything else is refused by name.

Paths come from manifests and folders that others wrote. A named pipe would hang whoever reads it, an
address would make FFmpeg reach into the network, and a playlist would make it open other files. So
a path is looked at before it is opened, and FFmpeg is handed an open file and no name.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from vlmvid.errors import DecodeError

ALLOWED_PROTOCOLS = ("file",)
"""What may stand before a colon; only files of this machine have a digest to tell whether they changed."""

# FFmpeg's protocols, which need no "//". A name with another word before a colon is the name of a file.
_BARE_PROTOCOLS = frozenset(
    "android_content async cache concat concatf crypto data fd file ftp gopher gophers hls http httpproxy https "
    "icecast ipfs ipns libamqp librist librtmp libsmbclient libsrt libssh libzmq md5 mmsh mmst pipe prompeg rtmp rtmpe "
    "rtmps rtmpt rtmpte rtmpts rtp sctp sftp srtp subfile tcp tee tls udp udplite unix".split()
)
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:,[^:]*)?:(//)?")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_PLAYLISTS = (
    (re.compile(rb"\s*#EXTM3U"), "an HLS playlist"),
    (re.compile(rb"\s*ffconcat version"), "a concat script"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<MPD\b", re.DOTALL), "a DASH manifest"),
    (re.compile(rb"v=0\r?\no="), "a session description (SDP)"),
)


def local_path(location: str, folder: str | os.PathLike[str] = "") -> str:
    """The path that `location` names, below `folder` when it is relative; ``file:`` before it is taken off.

    Whatever is written ``word://`` is an address. ``word:`` alone is one only when the word is a
    protocol of FFmpeg and no file has this name: a colon may stand in file names.

    Raises DecodeError (``protocol_not_allowed``) for an address of a protocol that is not in `ALLOWED_PROTOCOLS`.
    """
    path = os.path.join(folder, location)
    match = _PROTOCOL.match(location)
    if match is None:
        return path
    protocol, slashes = match[1].lower(), match[2]
    if not slashes and (not set(protocol.split("+")) & _BARE_PROTOCOLS or os.path.lexists(path)):
        return path
    if protocol not in ALLOWED_PROTOCOLS:
        raise DecodeError(
            f"{printable(location)} is an address of the protocol {protocol!r}; allowed: "
            f"{', '.join(ALLOWED_PROTOCOLS)}; download the file and name it by its path",
            reason_code="protocol_not_allowed",
        )
    return os.path.join(folder, location[match.end() if slashes else match.end(1) + 1 :])


def check_file(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> os.stat_result:
    """What the file system says of `path`, when it is a regular file; it is not opened.

    Args:
        path: symbolic links are followed.
        root: a folder; None = any place will do. Links are resolved on both sides.

    Raises:
        DecodeError: ``missing_file``, ``symlink_loop``, ``outside_root``, ``not_a_file`` (a folder, named pipe, socket
            or device), ``unreadable``, ``read_error`` (transient).
    """
    words = printable(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise path_error(error, path, "open") from error
    if root is not None and not is_inside(path, root):
        raise DecodeError(
            f"{words} lies outside of {printable(root)}, where restrict_root keeps the dataset; move the file there "
            "or widen data.restrict_root",
            reason_code="outside_root",
        )
    _require_regular(status, words)
    return status


def is_inside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """True when `path`, links resolved, lies in the folder `root` or below."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor of the regular file `path`, for reading; the caller closes it.

    Raises DecodeError as `check_file`, and ``empty_file``.
    """
    check_file(path)
    try:
        # Should a pipe have taken the file's place meanwhile, opening it must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise path_error(error, path, "open") from error
    try:
        status = os.fstat(descriptor)
        _require_regular(status, printable(path))
        if status.st_size == 0:
            raise DecodeError(
                f"{printable(path)} is empty (0 bytes); copy or download it again", reason_code="empty_file"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def playlist_kind(descriptor: int) -> str | None:
    """What kind of list of other files the open file is, in words; None when it is none. Moves its position."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    start = os.read(descriptor, 4096).removeprefix(b"\xef\xbb\xbf")
    return next((words for pattern, words in _PLAYLISTS if pattern.match(start)), None)


def printable(path: str | os.PathLike[str]) -> str:
    """`path` as text that UTF-8 can hold: bytes that are no UTF-8 become ``\\xff``."""
    text = os.fspath(path)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that stands for no byte of a name
        return text.encode("utf-8", "backslashreplace").decode()


def path_error(error: OSError | ValueError, path: str | os.PathLike[str], action: str) -> DecodeError:
    """The DecodeError that tells what `error` of the file system means for this file, with its reason code."""
    words = printable(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DecodeError(f"{words} does not exist; check the path", reason_code="missing_file")
    if isinstance(error, ValueError):
        return DecodeError(f"{words!r} is no file name: {error}; correct the manifest", reason_code="missing_file")
    if error.errno == errno.ELOOP:
        return DecodeError(
            f"{words} is a symbolic link that leads back to itself; mend or remove the link", reason_code="symlink_loop"
        )
    if isinstance(error, IsADirectoryError):
        return DecodeError(f"{words} is a folder; give a video file", reason_code="not_a_file")
    if isinstance(error, PermissionError) or error.errno == errno.ENAMETOOLONG:
        return DecodeError(
            f"cannot {action} {words}: {error.strerror}; give a file that may be read", reason_code="unreadable"
        )
    return DecodeError(
        f"cannot {action} {words}: {error.strerror}; the storage may be down for a moment, try again",
        reason_code="read_error",
        transient=True,
    )


def _require_regular(status: os.stat_result, words: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "no regular file")
        raise DecodeError(f"{words} is {kind}; give a regular file", reason_code="not_a_file")
