"""Public files pinned to a commit and a SHA-256: found in a mirror, in the cache, or downloaded once."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

log = logging.getLogger(__name__)

HOST_TIMEOUT = 2.0  # seconds to decide whether a host answers
ATTEMPTS = 2


class DataError(RuntimeError):
    """A file cannot be had: what, from where, and how to put it in place by hand."""


@dataclass(frozen=True)
class File:
    """One file of a public GitHub repository at one commit.

    Raises ValueError for a repository, commit, path or checksum that cannot be right.
    """

    repository: str  # owner/name
    commit: str
    path: str
    sha256: str
    bytes: int
    licence: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise ValueError(f"repository {self.repository!r} is not of the form owner/name")
        if not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ValueError(f"commit {self.commit!r} of {self.repository} is not 40 hex digits (a branch may move)")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} of {self.path} is not 64 lower-case hex digits")
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts:
            raise ValueError(f"path {self.path!r} must be relative and inside {self.repository}")
        if self.bytes <= 0:
            raise ValueError(f"size of {self.path} must be positive, not {self.bytes}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def url(self) -> str:
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{quote(self.path)}"

    @property
    def folder(self) -> str:
        return self.repository.replace("/", "+")

    @property
    def cached(self) -> Path:
        """Where the downloaded file lies (or will lie)."""
        return cache_folder() / "files" / self.folder / self.commit[:12] / self.path


def cache_folder() -> Path:
    """``$TENSORBENCH_CACHE``, or the user's cache folder for this program."""
    chosen = os.environ.get("TENSORBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("tensorbench"))


def mirror_folder() -> Path | None:
    """``$TENSORBENCH_DATA``, or None; DataError where it names no folder."""
    chosen = os.environ.get("TENSORBENCH_DATA")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise DataError(f"TENSORBENCH_DATA={chosen} is not a folder; correct it or unset it")
    return folder


@functools.lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    # 2 ms for 4 MB: hashing on each first use in a process costs less than a memory of it on disk would.
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Checksum of the file, computed once in a process for as long as its size and time stay."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


def _is_intact(file: File, path: Path) -> bool:
    return path.stat().st_size == file.bytes and sha256(path) == file.sha256


def _by_hand(file: File) -> str:
    mirror = os.environ.get("TENSORBENCH_DATA")
    place = Path(mirror, file.folder, file.path) if mirror else file.cached
    content = f"{file.bytes} bytes, sha256 {file.sha256}"
    return f"to put it there by hand: download {file.url} and save it as {place} ({content})"


def locate(file: File) -> Path | None:
    """The file's path in the mirror or the cache, its checksum verified, or None where it is in neither.

    A plain file of the right content directly in the mirror (or in its repository's folder there) counts too.

    Raises:
        DataError: the mirror holds the file with the wrong content.
    """
    mirror = mirror_folder()
    if mirror is not None:
        proper = mirror / file.folder / file.path
        if proper.is_file():
            if not _is_intact(file, proper):
                raise DataError(f"{proper}: wrong checksum (found {sha256(proper)}); {_by_hand(file)}")
            return proper
        for plain in (mirror / file.folder / file.name, mirror / file.name):
            if plain.is_file():
                if _is_intact(file, plain):
                    return plain
                log.warning("%s is not the file expected of %s (other checksum); ignored", plain, file.repository)
    if file.cached.is_file():
        if _is_intact(file, file.cached):
            return file.cached
        log.warning("%s is damaged (wrong checksum); it will be downloaded again", file.cached)
    return None


def fetch(file: File) -> Path:
    """A local path of the file with the right checksum: mirror, cache, or a download (atomic, with a progress bar).

    Raises:
        DataError: naming the file, the URL and where to put it by hand.
    """
    found = locate(file)
    if found is not None:
        return found
    target = file.cached
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{file.name}: the cache folder {target.parent} cannot be written ({error}); set TENSORBENCH_CACHE"
        ) from error

    from filelock import FileLock

    # Several jobs often want the same file at once: one downloads, the others wait for it.
    with FileLock(f"{target}.lock"):
        return locate(file) or _download(file, target)


def _download(file: File, target: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    target.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            # pooch writes to a temporary name beside the target and renames it once the checksum is right.
            pooch.retrieve(
                file.url,
                known_hash=f"sha256:{file.sha256}",
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
            )
            return target
        except Exception as error:  # every network library has its own exceptions
            if isinstance(error, ValueError) and "known hash" in str(error):  # trying again would not help
                said = f"{file.name}: the download has the wrong checksum ({error}); {_by_hand(file)}"
                raise DataError(said) from error
            if attempt == ATTEMPTS:
                said = f"{file.name}: download failed ({type(error).__name__}: {error}); {_by_hand(file)}"
                raise DataError(said) from error
    raise AssertionError("unreachable")


def _decided() -> dict[str, bool]:
    """``TENSORBENCH_HOSTS=host=yes,other=no``: what is known of hosts."""
    pairs = (pair.partition("=") for pair in os.environ.get("TENSORBENCH_HOSTS", "").split(",") if "=" in pair)
    return {host.strip(): answer.strip() == "yes" for host, _, answer in pairs}


def reachable(host: str, port: int = 443, timeout: float = HOST_TIMEOUT) -> bool:
    """Whether something accepts connections there. Never raises, never hangs.

    The answer is kept in the environment variable ``TENSORBENCH_HOSTS``, so that the processes which a workflow starts
    do not ask again and do not come to another answer; a user can set it too (``raw.githubusercontent.com=no``).
    """
    known = _decided()
    if host not in known:
        known[host] = _answers(host, port, timeout)
        os.environ["TENSORBENCH_HOSTS"] = ",".join(f"{name}={'yes' if up else 'no'}" for name, up in known.items())
    return known[host]


def _answers(host: str, port: int, timeout: float) -> bool:
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if proxy:  # then it is the proxy that must answer
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        try:
            host, port = parts.hostname or host, parts.port or 8080
        except ValueError:
            return False
    answer: list[bool] = []

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout).close()
            answer.append(True)
        except (OSError, ValueError):
            answer.append(False)

    # A name look-up ignores socket timeouts, so it must not be waited for without a limit.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answer and answer[0])


def _is_at_hand(file: File) -> bool:
    """Whether a file of the right size is there; looking costs nothing, and :func:`locate` judges its content."""
    mirror = mirror_folder()
    places = [file.cached]
    if mirror is not None:
        places += [mirror / file.folder / file.path, mirror / file.folder / file.name, mirror / file.name]
    return any(path.is_file() and path.stat().st_size == file.bytes for path in places)


def obtainable(file: File) -> tuple[bool, str]:
    """Whether :func:`fetch` would probably succeed, and why not."""
    if _is_at_hand(file):
        return True, ""
    host = urlsplit(file.url).hostname or ""
    if reachable(host):
        return True, ""
    return False, f"{file.name} is neither mirrored nor cached and {host} does not answer; {_by_hand(file)}"
