"""Downloads of archives: checked, with a limit on silence, and one line when something fails."""

import socket
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from snnrepro.errors import DataError

_NETWORK_SECONDS = 20.0


def fault(path: Path, md5: str | None) -> str | None:
    """Returns what is wrong with a file, or None: missing, damaged, unreadable."""
    try:
        if not path.is_file():
            return "missing"
        if not path.stat().st_size:
            return "empty"
        return None if check_integrity(str(path), md5) else "damaged"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def fetch_archive(url: str | None, root: Path, filename: str, md5: str | None) -> None:
    """Fetches ``root/filename`` where it is missing or damaged, and unpacks it there; without ``url`` only unpacks.

    Raises DataError naming the archive and what to do.
    """
    path = root / filename
    # torchvision sets no time limit: without one a silent network hangs the run.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_SECONDS)
    try:
        if url is not None:
            download_url(url, root, filename=filename, md5=md5)
        extract_archive(str(path), str(root))
    except Exception as error:
        # Those of the network, of the disk, and of each kind of archive.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if found := fault(path, md5):
            hint = "check the network and the folder, or put the archive there"
            source = f", and {url} cannot be fetched: {reason}" if url else ""
            raise DataError(f"{path}: {found}{source}; {hint}") from None
        raise DataError(
            f"{path}: cannot be unpacked: {reason}; check the folder, its rights and the disk, or remove the archive"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
