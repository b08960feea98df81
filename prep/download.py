"""Downloads: an archive over HTTP with its checksum, retries and a cache, or a wheel through pip."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import pooch
import requests

from lib.errors import UserError
from prep.sources import SOURCES

CONNECT_SECONDS, READ_SECONDS, RETRIES = 10, 60, 2


class Unreachable(UserError):
    """The host of a source cannot be reached, or does not give the file."""


def fetch(name, downloads, url, file, sha256, unreachable):
    """What a source's file is, from the first of its origins that answers.

    Args:
        name: of SOURCES.
        downloads: folder where downloads are kept.
        url, file: where else to have it from, or None; sha256: what that must have, None for the known one.
        unreachable: URL prefixes that are known not to answer and are not tried.

    Returns:
        (path, what to call it in the manifest, its reader).
    """
    first = SOURCES[name][0]
    sha256 = sha256 or first.sha256
    if file is not None:
        if sha256 is not None and not Path(file).is_dir():
            _check_hash(Path(file), sha256)
        return Path(file), f"file:{file}", first.read
    if url is not None:
        return _download(url, downloads, sha256), url, first.read
    if not first.location.startswith("http"):
        raise UserError(f"{name} has no public download; --file=PATH takes {first.location}")
    for origin in SOURCES[name]:
        if origin.location.startswith("pip:"):
            return _download_wheel(origin, downloads), origin.location, origin.read
        if not origin.location.startswith(tuple(unreachable)):
            try:
                return (
                    _download(origin.location, downloads, origin.sha256 or sha256),
                    origin.location,
                    origin.read,
                )
            except Unreachable as error:
                if origin is SOURCES[name][-1]:
                    raise
                print(f"{error}; taking the copy in {SOURCES[name][-1].location}", file=sys.stderr)
    raise Unreachable(f"{SOURCES[name][0].location} cannot be reached")


def _download(url, downloads, sha256):
    pooch.get_logger().setLevel(logging.ERROR)
    fetcher = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS), progressbar=sys.stderr.isatty())
    name = url.rsplit("/", 1)[-1] or "archive.zip"
    source = pooch.create(
        downloads, base_url="", registry={name: sha256}, urls={name: url}, retry_if_failed=RETRIES
    )
    try:
        return Path(source.fetch(name, downloader=fetcher))
    except requests.RequestException as error:
        raise Unreachable(f"{url} cannot be downloaded ({_reason(error)})") from error
    except ValueError as error:
        if "hash" not in str(error):
            raise UserError(f"{url} cannot be downloaded: {error}") from error
        raise UserError(
            f"{url} gives a file with the wrong checksum: it is damaged, or another version than sha256 {sha256}"
        ) from error


def _reason(error):
    """A few words for what a requests exception wraps five deep."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the host does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "the host cannot be reached"
    return str(error)[:200]


def _download_wheel(origin, downloads):
    """A wheel of the package registry, as pip is set up on this machine; it is not installed."""
    requirement = origin.location.removeprefix("pip:")
    kept = downloads / f"{requirement.replace('==', '-')}.whl"
    if not kept.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            pip = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--dest",
                    temporary,
                    requirement,
                ],
                capture_output=True,
                text=True,
            )
            wheels = list(Path(temporary).glob("*.whl"))
            if pip.returncode or not wheels:
                raise Unreachable(
                    f"pip cannot download {requirement}: {(pip.stderr.strip().splitlines() or ['no wheel'])[-1]}"
                )
            _check_hash(wheels[0], origin.sha256)
            wheels[0].rename(kept)
    _check_hash(kept, origin.sha256)
    return kept


def _check_hash(path, sha256):
    if pooch.file_hash(path) != sha256:
        raise UserError(
            f"{path} has the wrong checksum: it is damaged, or another version than sha256 {sha256}"
        )
