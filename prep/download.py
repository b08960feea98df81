"""Downloads: an archive over HTTP with its checksum, retries and a cache, or a wheel through pip."""

import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pooch
import requests

from lib.errors import UserError
from prep.sources import SOURCES

CONNECT_SECONDS, READ_SECONDS, RETRIES = 10, 60, 2
PIP_DOWNLOAD = "-m pip download --no-deps --only-binary=:all: --quiet --disable-pip-version-check".split()


class Unreachable(UserError):
    """The host of a source cannot be reached, or does not give the file."""


def fetch(name, downloads, url, file, sha256, unreachable):
    """The file of a known data set: a local one, a mirror's, or that of the first origin that answers.

    Args:
        name: a key of SOURCES.
        downloads: the folder that keeps downloads.
        url, file: a mirror, or a local file, to take instead of the origins; None for neither.
        sha256: the checksum that the file must have; None for the origin's own.
        unreachable: URL prefixes that are known not to answer, and are not tried.

    Returns:
        (path, where it is from for the manifest, the function (path, scratch folder) -> Reading).
    """
    first, last = SOURCES[name][0], SOURCES[name][-1]
    given, sha256 = sha256 is not None, sha256 or first.sha256
    if file is not None:
        path = Path(file).expanduser()
        if sha256 is not None and (given or zipfile.is_zipfile(path)):  # not a file out of the archive
            check_hash(path, sha256)
        return path, f"file:{file}", first.read
    if url is not None:
        return _download(url, downloads, sha256), url, first.read
    if not first.location.startswith("http"):
        raise UserError(f"{name} has no public download. Give --file=PATH: {first.location}.")
    for origin in SOURCES[name]:
        if origin.location.startswith("pip:"):
            return _download_wheel(origin, downloads), origin.location, origin.read
        if origin.location.startswith(tuple(unreachable)):
            continue
        try:
            path = _download(origin.location, downloads, origin.sha256 or sha256)
            return path, origin.location, origin.read
        except Unreachable as error:
            if origin is last:
                raise
            print(f"{error}: taking the copy in {last.location}", file=sys.stderr)
    raise Unreachable(f"{first.location} cannot be reached")


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
        raise _wrong_checksum(url, sha256) from error


def _reason(error):
    """A few words for a requests exception, whose own text names five nested exceptions."""
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
    """The path of a wheel, from the package registry that pip uses on this machine; it is not installed."""
    requirement = origin.location.removeprefix("pip:")
    kept = downloads / f"{requirement.replace('==', '-')}.whl"
    if not kept.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            command = [sys.executable, *PIP_DOWNLOAD, "--dest", temporary, requirement]
            pip = subprocess.run(command, capture_output=True, text=True)
            wheels = list(Path(temporary).glob("*.whl"))
            if pip.returncode or not wheels:
                reason = (pip.stderr.strip().splitlines() or ["no wheel"])[-1]
                raise Unreachable(f"pip cannot download {requirement}: {reason}")
            check_hash(wheels[0], origin.sha256)
            wheels[0].rename(kept)
    check_hash(kept, origin.sha256)
    return kept


def check_hash(path, sha256):
    if pooch.file_hash(path) != sha256:
        raise _wrong_checksum(path, sha256)


def _wrong_checksum(location, sha256):
    return UserError(
        f"{location} has the wrong checksum: it is damaged, or another version than sha256 {sha256}. "
        "Download it again, or give the sha256 of your version with --sha256."
    )
