"""Small picture files, an archive like that of MIT Indoor Scenes, and a web server with the faults of real ones."""

import io
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, TEST, EXTRA = 3, 1, 2
"""Pictures of each category on the training list, on the test list and on none."""


class Web:
    """A server: its files, its failures, and the requests that it was sent.

    `files`: name -> content. `ranges`: whether it sends parts. `shift`: by how many bytes they begin too late.
    `conditions`: whether it heeds `If-Range`. `headers`: what tells versions apart. `breaks`: after how many bytes it
    hangs up, one number for each answer until none is left. `asked`: (name, Range header) of every request.
    """

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.ranges = True
        self.shift = 0
        self.conditions = True
        self.headers = {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        self.breaks: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


@contextmanager
def serving(web: Web) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, part = self.path.lstrip("/"), self.headers["Range"]
            web.asked.append((name, part))
            if name not in web.files:
                return self.send_error(404)
            content, start = web.files[name], 0
            fresh = not web.conditions or self.headers["If-Range"] in (None, *web.headers.values())
            if part and web.ranges and fresh:
                start = int(re.fullmatch(r"bytes=(\d+)-", part)[1]) + web.shift
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            for header in web.headers.items():
                self.send_header(*header)
            self.end_headers()
            end = start + web.breaks.pop(0) if web.breaks else len(content)
            self.wfile.write(content[start:end])
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """Smooth noise in colour, so that JPEG keeps it well."""
    small = np.random.default_rng(seed).integers(256, size=(3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    """An archive of regular files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_000_000_000
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@cache
def categories() -> dict[str, str]:
    """Category -> supercategory of MIT Indoor Scenes."""
    table = files("dua_lightning.data").joinpath("tables", "mit_indoor_supercategories.csv").read_text(encoding="utf-8")
    return {category: task for task, _, category in (line.partition(",") for line in table.split()[1:])}


@cache
def mit_members() -> dict[str, bytes]:
    """`Images/CATEGORY/NAME.jpg` -> content, `TRAIN + TEST + EXTRA` of each category; names in no useful order."""
    members: dict[str, bytes] = {}
    for category in reversed(categories()):
        for i in reversed(range(TRAIN + TEST + EXTRA)):
            members[f"Images/{category}/{i}{'.JPG' if i == 5 else '.jpg'}"] = jpeg(picture(len(members)))
    return members


def mit_web() -> Web:
    """The three files; pictures 0 to 2 of each category are on the training list, 3 is on the test list."""
    lists = {
        "TrainImages.txt": [f"{c}/{i}.jpg" for c in categories() for i in range(TRAIN)],
        "TestImages.txt": [f"{c}/{i}.jpg" for c in categories() for i in range(TRAIN, TRAIN + TEST)],
    }
    # Like the real ones: one with Windows' line ends, one without an end of the last line.
    texts = {
        "TrainImages.txt": "\r\n".join(lists["TrainImages.txt"]),
        "TestImages.txt": "\n".join(lists["TestImages.txt"]),
    }
    return Web(**{name: text.encode() for name, text in texts.items()}, **{"indoorCVPR_09.tar": tar(mit_members())})


def tree(folder: Path) -> list[str]:
    """Every file and folder below `folder`, lock files apart."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix != ".lock")
