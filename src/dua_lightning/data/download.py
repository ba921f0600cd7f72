"""Large files from the web, resumed where a connection broke, and archives unpacked whole or not at all."""

import http.client
import lzma
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from dua_lightning.errors import InputError
from dua_lightning.progress import stage
from dua_lightning.store.files import file_sha256, write_text

CHUNK = 1 << 18
"""Bytes read at a time."""
MB = 1e6
"""Bytes of a megabyte, in which people are told how far it is."""


class _BrokenError(Exception):
    """The connection ended before the file; what has come is kept."""


def download(url: str, path: Path, sha256: str | None = None, timeout: float = 30.0, attempts: int = 3) -> str:
    """Download a file, going on where an earlier download broke.

    The bytes that have come lie in `path` with `.part` behind its name. A broken download goes on from there, in the
    same call and in later ones, provided that the server can send the rest and that the file is still the same one, by
    its ETag or time of last change; otherwise it starts afresh. `path` appears only when all is there. One process at a
    time may download to it.

    Args:
        url: The address.
        path: The file that is made.
        sha256: The digest that the file must have, in hexadecimal; a file with another one is removed.
        timeout: For how many seconds the server may be silent.
        attempts: How often the download is begun or continued in this call.

    Returns:
        The SHA-256 digest of the file, in hexadecimal.

    Raises:
        InputError: The download failed; the message has the address, the reason and the next step.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} cannot be downloaded; give an address that begins with http:// or https://")
    part = path.with_name(f"{path.name}.part")
    tag = path.with_name(f"{path.name}.part.tag")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(attempts)):
            try:
                _fetch(url, part, tag, timeout)
                break
            except _BrokenError as error:
                if not left:
                    raise InputError(
                        f"{url} came only in part ({error}); run again, and the download goes on where it stopped"
                    ) from error
        found = file_sha256(part)
        tag.unlink(missing_ok=True)
        if sha256 is not None and found != sha256.lower():
            part.unlink()
            raise InputError(
                f"{url} has the SHA-256 digest {found}, not {sha256}, and was removed; run again if it was damaged on "
                "its way, or find out why the file has changed"
            )
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"{url} could not be saved in {path.parent} ({error.strerror or error}); make room there or choose "
            "another folder, and run again"
        ) from error
    return found


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, into a new folder, which appears whole or not at all.

    Only regular files and folders are unpacked, with the standard library's `data` filter.

    Args:
        archive: The archive.
        folder: The new folder.

    Raises:
        InputError: The archive is damaged or cut short, or holds anything else: absolute paths, paths with `..`, links,
            devices.
    """
    if folder.exists():
        raise InputError(f"{folder} is already there; remove it to unpack {archive} again")
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        size = archive.stat().st_size / MB
        with tarfile.open(archive) as tar, stage(f"unpacking {archive.name}", size, " MB") as advance:
            temporary.mkdir(parents=True)
            at = 0
            for member in tar:
                _check(member)
                tar.extract(member, temporary, filter="data")
                advance(steps=(tar.offset - at) / MB)
                at = tar.offset
            if not tar.getmembers():
                raise tarfile.ReadError("it is empty")
            # `tarfile` takes a header that it cannot read, or none, for the end; a real end is a block of zeros.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")
            # A compressed archive is checked when it has been read to its end.
            while tar.fileobj.read(CHUNK):
                pass
        temporary.rename(folder)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{archive} cannot be unpacked ({' '.join(str(error).split())}); if the disk is not full, the archive is "
            "damaged: delete it and get it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def obtain(path: Path, url: str, allowed: bool, sha256: str | None = None) -> str | None:
    """Download a file if it is missing.

    Args:
        path: The file.
        url: Its address.
        allowed: Whether it may be downloaded.
        sha256: The digest that a downloaded file must have, in hexadecimal.

    Returns:
        The SHA-256 digest of a file that was downloaded, in hexadecimal; `None` if the file was there.

    Raises:
        InputError: The file is missing and may not be downloaded, or the download failed.
    """
    if path.exists():
        return None
    if not allowed:
        raise InputError(
            f"{path.absolute()} is missing; put it there, from {url}, or run once with network access and download=true"
        )
    return download(url, path, sha256)


def obtain_archive(archive: Path, url: str, allowed: bool, sha256: str | None, folder: Path) -> str:
    """Unpack an archive, which is downloaded if it is missing, into a new folder.

    Its digest must be the given one; without one, it must be the one that `remember_archive` has kept, if any.

    Args:
        archive: The archive.
        url: Its address.
        allowed: Whether it may be downloaded.
        sha256: The digest that it must have, in hexadecimal.
        folder: The new folder.

    Returns:
        The SHA-256 digest of the archive, in hexadecimal.

    Raises:
        InputError: The archive cannot be had, is damaged or has another digest.
    """
    record = _record(archive)
    expected = sha256 or (record.read_text(encoding="utf-8").strip() if record.exists() else None)
    found = obtain(archive, url, allowed, expected) or file_sha256(archive)
    if expected is not None and found != expected.lower():
        raise InputError(
            f"{archive} has the SHA-256 digest {found}, not {expected}; delete it to download it again"
            + ("" if sha256 else f", or delete {record} if you trust the new file")
        )
    extract(archive, folder)
    return found


def remember_archive(archive: Path, sha256: str) -> None:
    """Keep the digest of an archive that proved complete, beside it.

    Args:
        archive: The archive.
        sha256: Its digest, in hexadecimal.
    """
    write_text(_record(archive), f"{sha256}\n")


def _record(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def _check(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.ReadError(f"{member.name!r} would be written outside the folder")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise tarfile.ReadError(f"{member.name!r} is neither a regular file nor a folder")


def _fetch(url: str, part: Path, tag: Path, timeout: float) -> None:
    """Complete `part`, or raise `_BrokenError` with what has come kept; `tag` names the version that it is part of."""
    have = part.stat().st_size if part.exists() else 0
    known = tag.read_text(encoding="utf-8") if tag.exists() else ""
    version = known.removeprefix(f"{url}\n") if known.startswith(f"{url}\n") else ""
    request = urllib.request.Request(url, headers={"User-Agent": "dua_lightning"})
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                if error.headers.get("Content-Range") == f"bytes */{have}":
                    return
                part.unlink()
                raise _BrokenError("the server has less of it than has come") from error
            raise InputError(
                f"{url} could not be downloaded (the server answered {error.code} {error.reason}); check the address, "
                "or put the file there by hand"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(
            f"{url} could not be reached ({reason}); check the network and run again, or put the file there by hand"
        ) from error
    with response:
        if response.status == 206:
            start, total = _range(response)
            if start != have or _version(response) not in ("", version):
                part.unlink()
                raise _BrokenError("the server sent another part than the one asked for")
        else:
            length = response.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdigit() else None
        _check_room(url, part, have, total)
        whole = None if total is None else total / MB
        with (
            part.open("ab" if have else "wb") as file,
            stage(f"downloading {part.stem}", whole, " MB", have / MB) as advance,
        ):
            if not have:
                tag.write_text(f"{url}\n{_version(response)}", encoding="utf-8")
            while total is None or have < total:
                chunk = _read(response, CHUNK if total is None else min(CHUNK, total - have))
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                advance(steps=len(chunk) / MB)
    if total is not None and have < total:
        raise _BrokenError(f"the connection broke after {have} of {total} bytes")


def _read(response: Any, most: int) -> bytes:
    try:
        chunk: bytes = response.read1(most)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error
    return chunk


def _version(response: Any) -> str:
    """Tell this version of the file from others, for `If-Range`; empty if the server does not say."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _range(response: Any) -> tuple[int, int | None]:
    """First byte of a part and length of the whole file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _check_room(url: str, part: Path, have: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise InputError(
            f"{url} has {total / 1e9:.2f} GB, and {part.parent} has room for {free / 1e9:.2f} GB; make room there or "
            "choose another folder"
        )
