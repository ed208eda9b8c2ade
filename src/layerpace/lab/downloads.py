"""Fetching a data set's files: verified, resumed where a transfer broke off, from several mirrors.

pooch checks the hash and moves a file to its place only when it is whole; what it lacks is going on
with a partial transfer, so the transfer itself is `ResumingDownloader`. A file `NAME.part` beside the
target keeps what has arrived; a second attempt, from whichever mirror, asks for the rest of it.
"""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .errors import LabError, one_line
from .extras import require
from .sources import Source

Notify = Callable[[str], None]
CHUNK = 1 << 18


class ResumingDownloader:
    """A pooch downloader that continues `partial` by an HTTP Range request."""

    def __init__(self, partial: Path, timeout: float = 20.0) -> None:
        self.partial = partial
        self.timeout = timeout

    def __call__(self, url: str, output_file: object, pooch: object, check_only: bool = False) -> bool | None:
        if check_only:
            with self.open(url, start=0):
                return True
        have = self.partial.stat().st_size if self.partial.exists() else 0
        try:
            response = self.open(url, start=have)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            response = None  # nothing is left to ask for: the hash decides whether the file is whole
        if response is not None:
            with response:
                resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
                with open(self.partial, "ab" if resumed else "wb") as file:
                    shutil.copyfileobj(response, file, CHUNK)
                self.check_length(response, url)
        shutil.copyfile(self.partial, os.fspath(output_file))  # type: ignore[call-overload]
        return None

    def open(self, url: str, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "layerpace", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self.timeout)
        return response

    @staticmethod
    def check_length(response: http.client.HTTPResponse, url: str) -> None:
        """A connection that closes early ends a read quietly; the bytes announced and not read tell it."""
        if response.length:
            raise ConnectionError(f"{url}: the connection closed with {response.length} bytes to go")


def fetch(source: Source, target: Path, notify: Notify) -> None:
    """Download `source` so that `target` holds its files; LabError with all reasons if no mirror serves it."""
    require(["pooch"], f"downloading {source.name}")
    target.mkdir(parents=True, exist_ok=True)
    for name, md5 in source.downloads.items():
        path = fetch_one(source, name, md5, target, notify)
        if name.endswith(".tar.gz"):
            unpack(path, source, target)


def fetch_one(source: Source, name: str, md5: str, target: Path, notify: Notify) -> Path:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    partial = target / f"{name}.part"
    reasons = []
    for mirror in source.mirrors:
        notify(f"downloading {mirror}{name} to {target}")
        try:
            pooch.retrieve(
                mirror + name, known_hash=f"md5:{md5}", fname=name, path=target, downloader=ResumingDownloader(partial)
            )
        except ValueError as error:  # pooch: the hash differs, so what arrived is of no use
            partial.unlink(missing_ok=True)
            reasons.append(f"{mirror}: {one_line(error)}")
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{mirror}: {one_line(error)}")
        else:
            partial.unlink(missing_ok=True)
            return target / name
    raise LabError("; ".join(reasons))


def unpack(archive: Path, source: Source, target: Path) -> None:
    """Write the files of `source` from a verified archive; nothing else in it is touched."""
    with tarfile.open(archive) as tar:
        for name in source.files:
            member = tar.extractfile(f"{source.folder}/{name}")
            if member is None:
                raise LabError(f"{archive} holds no {source.folder}/{name}")
            aside = target / f"{name}.part"
            with member, open(aside, "wb") as file:
                shutil.copyfileobj(member, file, CHUNK)
            os.replace(aside, target / name)
    archive.unlink()
