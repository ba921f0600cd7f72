"""Every kind of picture file becomes a square of bytes, or an error with its name."""

import logging
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from benchmarks.memory import reset_peak, status
from dua_lightning.data import decode as module
from dua_lightning.data.decode import decode, decoded
from dua_lightning.errors import InputError
from tests.data.scenes import jpeg, picture, tree


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def plain(values: np.ndarray) -> np.ndarray:
    """`(height, width, 3)` or `(height, width)` as `decode` gives it, where nothing is resized."""
    return np.broadcast_to(values if values.ndim == 3 else values[:, :, None], (*values.shape[:2], 3)).transpose(
        2, 0, 1
    )


@pytest.mark.parametrize(
    ("width", "height"), [(24, 16), (16, 24), (50, 50), (101, 67), (640, 427), (37, 500), (33, 32), (8, 8), (300, 7)]
)
@pytest.mark.parametrize("size", [1, 8, 32, 33])
def test_as_torchvision_resizes_and_crops(width: int, height: int, size: int, tmp_path: Path) -> None:
    image = picture(width, width, height)
    expected = np.asarray(Compose([Resize(size), CenterCrop(size)])(image)).transpose(2, 0, 1)
    found = decode(saved(image, tmp_path / "a.png"), size, upright=True)
    assert found.shape == (3, size, size)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_a_picture_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    image = picture(0, 9, 9)
    assert (decode(saved(image, tmp_path / "a.png"), 9, upright=True) == plain(np.asarray(image))).all()


def test_what_is_in_a_file_counts_and_not_its_name(tmp_path: Path) -> None:
    image = picture(0, 9, 9)
    saved(image, tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (decode(tmp_path / "a.jpg", 9, upright=True) == plain(np.asarray(image))).all()


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
WIDE = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
"""16-bit grey; its last value is 65520."""


@pytest.mark.parametrize(
    ("image", "ending", "expected"),
    [
        (Image.fromarray(RAMP), "png", RAMP),
        (Image.fromarray(RAMP > 99), "png", (RAMP > 99) * np.uint8(255)),
        (Image.fromarray(RAMP).convert("LA"), "png", RAMP),
        (picture(1, 8, 8).convert("RGBA"), "png", np.asarray(picture(1, 8, 8))),
        (Image.fromarray(RAMP).convert("P"), "gif", RAMP),
        (Image.fromarray(WIDE), "png", np.round(WIDE / 257).astype(np.uint8)),
        (Image.fromarray(WIDE), "tif", np.round(WIDE / 257).astype(np.uint8)),
        (Image.fromarray(WIDE.astype(">u2")), "tif", np.round(WIDE / 257).astype(np.uint8)),
        (Image.fromarray(WIDE.astype(np.int32)), "tif", np.round(WIDE / 257).astype(np.uint8)),
        (picture(2, 8, 8), "bmp", np.asarray(picture(2, 8, 8))),
        (picture(2, 8, 8), "ppm", np.asarray(picture(2, 8, 8))),
    ],
    ids=["grey", "black and white", "grey and alpha", "RGBA", "palette", *["16-bit"] * 4, "BMP", "PPM"],
)
def test_every_mode_becomes_rgb(image: Image.Image, ending: str, expected: np.ndarray, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(saved(image, tmp_path / f"a.{ending}"), 8, upright=True)
    assert (found == plain(expected)).all()


def test_cmyk_and_lossy_formats_come_close(tmp_path: Path) -> None:
    image = picture(3, 40, 40)
    files = [
        saved(image.convert("CMYK"), tmp_path / "a.jpg", quality=95),
        saved(image.convert("CMYK"), tmp_path / "a.tif"),
        saved(image, tmp_path / "a.webp", quality=95),
    ]
    for path in files:
        assert np.abs(decode(path, 40, upright=True).astype(int) - plain(np.asarray(image))).mean() < 4, path


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("P")
    path = saved(image, tmp_path / "a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode(path, 8, upright=True) == plain(RAMP)).all()


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_taken(ending: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {} if ending == "tif" else {"lossless": True} if ending == "webp" else {"duration": 50}
    path = saved(frames[0], tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **options)
    assert (decode(path, 8, upright=True)[:, 4, 4] == [255, 0, 0]).all()


def test_orientation_is_applied_or_ignored(tmp_path: Path) -> None:
    image = picture(5, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    path = saved(image, tmp_path / "a.png", exif=exif)
    assert (decode(path, 8, upright=False) == plain(np.asarray(image))).all()
    assert (decode(path, 8, upright=True) == plain(np.rot90(np.asarray(image), -1))).all()


EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x8825] = {1: "N", 2: (0.0, 0.0, 0.0)}
BODY = EXIF.tobytes().removeprefix(b"Exif\0\0")
DAMAGED = {
    "whole": (EXIF.tobytes(), True),
    "a header twice": (b"Exif\0\0" * 2 + BODY, None),
    "an offset beyond the end": (b"Exif\0\0" + BODY[:4] + b"\xff\xff\xff\x7f" + BODY[8:], False),
    "coordinates of 0/0": (EXIF.tobytes().replace(b"\0\0\0\0\1\0\0\0", bytes(8)), True),
    "an orientation of text": (b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0006\0\0\0" + bytes(4), None),
    "noise": (b"Exif\0\0" + bytes(range(200)), False),
}


@pytest.mark.parametrize(("exif", "turned"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_exif_block_costs_no_picture(exif: bytes, turned: bool | None, tmp_path: Path) -> None:
    """The picture is turned where its orientation can still be read; `None` leaves this to Pillow."""
    path = saved(picture(1, 8, 8), tmp_path / "a.png")
    flat = decode(path, 8, upright=True)
    saved(picture(1, 8, 8), path, exif=exif)
    with warnings.catch_warnings(record=True) as said:
        pixels, _ = decoded([path], tmp_path, 8, tmp_path / "cache", upright=True, skip_unreadable=False)
    assert not said
    expected = [np.rot90(flat, -1, (1, 2)).tolist(), flat.tolist()]
    assert pixels[0].tolist() in (expected if turned is None else expected[:1] if turned else expected[1:])


@pytest.mark.parametrize("shape", [(1, 1), (20000, 1), (1, 20000), (5, 20000), (2, 1)])
def test_extreme_shapes_are_decoded_at_no_cost(shape: tuple[int, int], tmp_path: Path) -> None:
    """The whole of a 20000x1 strip resized to 224 pixels would have three gigabytes."""
    path = saved(Image.new("RGB", shape, (10, 200, 30)), tmp_path / "a.png")
    found = decode(path, 224, upright=True)
    assert found.shape == (3, 224, 224)
    assert (found == np.array([10, 200, 30])[:, None, None]).all()


def png(width: int, height: int) -> bytes:
    """A header that promises more than there is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


WHOLE = jpeg(picture(6, 64, 64))
BAD: dict[str, bytes | Callable[[Path], object]] = {
    "empty": b"",
    "text": b"Dear diary,\n",
    "a web page": b"<html></html>",
    "a cut JPEG": WHOLE[: len(WHOLE) // 2],
    "a cut JPEG header": WHOLE[:20],
    "a cut PNG": png(64, 64),
    "noise behind a header": WHOLE[:4] + np.random.default_rng(0).bytes(500),
    "a small bomb": png(20_000, 12_501),
    "a bomb": png(20_000, 20_000),
    "an absurd bomb": png(2**31 - 1, 2**31 - 1),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a format off the list": lambda path: picture(0).save(path, "PCX"),
    "floating-point values": lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path, "TIFF"),
    "32-bit values": lambda path: Image.fromarray(WIDE.astype(np.int32) * 2000).save(path, "TIFF"),
    "negative values": lambda path: Image.fromarray(-WIDE.astype(np.int32)).save(path, "TIFF"),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_named(content: bytes | Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    _ = path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(
        InputError, match=r"odd\.jpg is not a picture that can be used \(.+\); repair or remove it"
    ) as caught:
        decode(path, 8, upright=True)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = saved(Image.new("1", (20_000, 12_501)), tmp_path / "a.png")
    assert path.stat().st_size < 100_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"a\.png .*20000x12501 is more than most_pixels=250000000"):
            decode(path, 8, upright=True)
    with pytest.raises(InputError, match=r"a\.png .*10x9 is more than most_pixels=89"):
        decode(saved(picture(0, 10, 9), path), 8, upright=True, most_pixels=89)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485, "Pillow's own limit stays for others"


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (12_000, 6_000)])
def test_the_photograph_of_a_telephone_is_read_in_little_memory(width: int, height: int, tmp_path: Path) -> None:
    """72 and 108 megapixels; whole, the pixels would take 216 and 324 MB."""
    path = tmp_path / "a.jpg"
    Image.linear_gradient("L").resize((width, height)).save(path, quality=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = reset_peak()
        found = decode(path, 64, upright=True)
    assert status("VmHWM") - before < 100 * 2**20
    small = Image.linear_gradient("L").resize((width // 10, height // 10))
    expected = decode(saved(small, tmp_path / "a.png"), 64, upright=True)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2


def test_a_picture_that_is_not_large_is_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(picture(7, 800, 600), tmp_path / "a.jpg", quality=50)
    whole = decode(path, 64, upright=True)
    monkeypatch.setattr(module, "LARGE", 800 * 600)
    assert (decode(path, 64, upright=True) == whole).all()
    monkeypatch.setattr(module, "LARGE", 800 * 600 - 1)
    shrunk = decode(path, 64, upright=True)
    assert (shrunk != whole).any()
    assert np.abs(shrunk.astype(int) - whole).max() < 16


@pytest.mark.parametrize("ending", ["JPG", "jpeg", "Jpg", "JPEG", "WEBP", "Png", "TIF", "BMP", "GIF", "heic", ""])
def test_an_ending_of_any_case_or_none_is_read(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_bytes(WHOLE)
    assert decode(tmp_path / f"a.{ending}", 64, upright=True).shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGB", "avif"), ("RGB", "tif"), ("L", "png")],
)
def test_every_kind_of_a_telephone_or_scanner_is_turned_upright(mode: str, ending: str, tmp_path: Path) -> None:
    if ending == "avif" and "AVIF" not in module._formats():
        pytest.skip("AVIF is not installed")
    image, exif = picture(5, 40, 40).convert(mode), Image.Exif()
    exif[0x0112] = 6
    flat = decode(saved(image, tmp_path / f"flat.{ending}", quality=95), 40, upright=True)
    path = saved(image, tmp_path / f"turned.{ending}", quality=95, exif=exif)
    assert np.abs(decode(path, 40, upright=True).astype(int) - np.rot90(flat, -1, (1, 2))).mean() < 1


def test_a_large_picture_whose_format_cannot_shrink_is_read_too(tmp_path: Path) -> None:
    path = saved(Image.new("1", (10_000, 9_000), 1), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode(path, 8, upright=True) == 255).all()


@pytest.mark.parametrize(
    ("brand", "words"),
    [
        (b"heic", "it is HEIC, which can be read after pip install 'dua_lightning[heif]'"),
        (b"mif1", "it is HEIC, "),
        (b"avif", "it is AVIF, which can be read after pip install --upgrade pillow"),
    ],
)
def test_a_format_that_is_not_installed_is_named_with_its_package(
    brand: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_formats", lambda: module.FORMATS)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(99))
    with pytest.raises(InputError) as caught:
        decode(tmp_path / "IMG_1.HEIC", 8, upright=True)
    assert words in str(caught.value)


@pytest.mark.parametrize(("kind", "ending"), [("AVIF", "avif"), ("HEIF", "heic")])
def test_formats_of_telephones_are_read_where_they_are_installed(kind: str, ending: str, tmp_path: Path) -> None:
    if kind not in module._formats():
        pytest.skip(f"{kind} is not installed")
    image = picture(3, 64, 64)
    found = decode(saved(image, tmp_path / f"a.{ending}", quality=95), 64, upright=True)
    assert np.abs(found.astype(int) - plain(np.asarray(image))).mean() < 4


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    return [saved(picture(i, 10, 8), tmp_path / "in" / f"{i}.png") for i in range(5)]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    plain = module.decode

    def counted(path: Path, *args: int) -> np.ndarray:
        names.append(path.name)
        return plain(path, *args)

    monkeypatch.setattr(module, "decode", counted)
    return names


def run(
    paths: list[Path], size: int = 8, upright: bool = True, skip: bool = False, **more: int
) -> tuple[torch.Tensor, list[int]]:
    folder = paths[0].parent
    pixels, places = decoded(paths, folder, size, folder.parent / "cache", upright, skip, **more)
    return pixels, places.tolist()


def test_pictures_are_decoded_once(several: list[Path], count: list[str]) -> None:
    pixels, places = run(several)
    assert places == list(range(5))
    assert [plane.tolist() for plane in pixels] == [decode(path, 8, True).tolist() for path in several]
    again, _ = run(several)
    assert again.equal(pixels)
    assert sorted(count) == [f"{i}.png" for i in range(5)]


def test_chunks_keep_the_order(several: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    pixels, _ = run(several)
    assert [plane.tolist() for plane in pixels] == [decode(path, 8, True).tolist() for path in several]


def test_whatever_the_pixels_depend_on_makes_another_file(several: list[Path], tmp_path: Path) -> None:
    def files() -> int:
        return len(tree(tmp_path / "cache"))

    run(several)
    for number, change in enumerate(
        [
            lambda: run(several, size=9),
            lambda: run(several, upright=False),
            lambda: run(several[:4]),
            lambda: run(several[::-1]),
            lambda: run(several, most_pixels=10**6),
            lambda: (saved(picture(77, 10, 8), several[0]), run(several)),
        ],
        2,
    ):
        change()
        assert files() == number
    run(several[2:4])
    run(several[2:4], skip=True)
    assert files() == 8


def test_what_they_do_not_depend_on_makes_none(several: list[Path], count: list[str], tmp_path: Path) -> None:
    expected, _ = run(several)
    before = len(count)
    os.utime(several[1], (1, 1))
    several[4] = several[4].rename(several[4].with_name("z.png"))
    shutil.copytree(several[0].parent, tmp_path / "copy")
    assert run(several)[0].equal(expected)
    assert run([tmp_path / "copy" / path.name for path in several])[0].equal(expected)
    assert len(count) == before


def test_a_change_under_the_same_name_size_and_time_is_seen(several: list[Path]) -> None:
    for path in several:
        saved(Image.open(path).copy(), path, format="BMP")
    run(several)
    before = several[2].stat()
    saved(picture(99, 10, 8), several[2], format="BMP")
    os.utime(several[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert several[2].stat().st_size == before.st_size
    assert run(several)[0][2].tolist() == decode(several[2], 8, True).tolist()


def test_a_picture_that_changes_while_it_is_read_leaves_no_file(
    several: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module.decode

    def changing(path: Path, *args: int) -> np.ndarray:
        saved(picture(99, 10, 8), several[4])
        return plain(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", changing)
        with pytest.raises(InputError, match=r"pictures in .*in have changed while they were read; run again"):
            run(several)
    assert tree(tmp_path / "cache") == []
    assert run(several)[0][4].tolist() == decode(several[4], 8, True).tolist()


@pytest.mark.parametrize("size", [1, 8])
def test_unreadable_pictures_stop_or_are_left_out(
    size: int, several: list[Path], count: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    several[1].write_bytes(b"")
    several[3].write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(InputError, match=r"2 of 5 pictures cannot be read; .*1\.png .*skip_unreadable=true"):
            run(several, size)
    before = len(count)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            pixels, places = run(several, size, skip=True)
        assert places == [0, 2, 4]
        assert [plane.tolist() for plane in pixels] == [decode(several[i], size, True).tolist() for i in places]
        assert "2 of 5 pictures" in caplog.text
        assert "['1.png', '3.png']" in caplog.text
        caplog.clear()
    assert len(count) == before, "with the map there, nothing is decoded again"


def test_no_picture_at_all_can_be_read(several: list[Path]) -> None:
    for path in several:
        path.write_bytes(b"")
    pixels, places = run(several, skip=True)
    assert pixels.shape == (0, 3, 8, 8)
    assert places == []


def test_a_size_is_at_least_one(several: list[Path]) -> None:
    with pytest.raises(InputError, match="got size=0"):
        run(several, size=0)


@pytest.mark.parametrize(("width", "height"), [(24, 16), (9, 9), (5, 30), (3, 3)])
def test_without_a_resize_it_is_torchvisions_centre_crop(width: int, height: int, tmp_path: Path) -> None:
    image = picture(width, width, height)
    expected = np.asarray(CenterCrop(9)(image)).transpose(2, 0, 1)
    assert (decode(saved(image, tmp_path / "a.png"), 9, upright=True, resize=False) == expected).all()
