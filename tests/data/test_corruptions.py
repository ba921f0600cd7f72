"""The ten corruptions against slow loops, and the laws that make a user's images the same at every look.

`python -m tests.data.test_corruptions` draws the golden file anew.
"""

import hashlib
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dua_lightning.data import corruptions as module
from dua_lightning.data.corruptions import CONSTANTS, NAMES, corrupt
from dua_lightning.errors import InputError
from dua_lightning.streams import derive
from tests.helpers.nets import law
from tests.reference import corruption_loops

GOLDEN = Path(__file__).parent.parent / "golden" / "spatter.npz"
SEVERITIES = range(1, 6)
DRAWN = ("spatter", "elastic", "gaussian_noise", "impulse_noise")
"""Those with random numbers of each image."""

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV is not installed")
names = pytest.mark.parametrize("name", [pytest.param(n, marks=needs_opencv if n == "spatter" else ()) for n in NAMES])
severities = pytest.mark.parametrize("severity", SEVERITIES)
sets_of_constants = pytest.mark.parametrize("constants", CONSTANTS)


def noise(n: int = 4, height: int = 11, width: int = 9, seed: int = 0) -> Tensor:
    """Every value independent of its neighbours, so that one pixel read in the wrong place is seen."""
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, height, width), generator=stream, dtype=torch.uint8)


def landscape(height: int, width: int) -> Tensor:
    """`(1, 3, height, width)`: smooth gradients with a dark disk and a bright bar, the same everywhere."""
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([60 + 160 * i // height, 200 - 140 * j // width, 40 + 90 * (i + j) // (height + width)])
    disk = (2 * i - height) ** 2 + (2 * j - width) ** 2 < (min(height, width) // 2) ** 2
    picture = torch.where(disk, torch.tensor([30, 20, 60])[:, None, None], picture)
    picture[:, height // 8 : height // 4] = torch.tensor([250, 240, 200])[:, None, None]
    return picture.byte()[None]


def flat(level: int, n: int = 1, side: int = 64) -> Tensor:
    return torch.full((n, 3, side, side), level, dtype=torch.uint8)


def numbered(pixels: Tensor) -> Tensor:
    return torch.arange(len(pixels))


def reference(name: str, pixels: Tensor, severity: int, sources: Tensor, constants: str) -> Tensor:
    """The loops' images for seed 7 and user u, clipped and truncated."""
    made = []
    for picture, source in zip(pixels.numpy(), sources.tolist(), strict=True):
        rng = np.random.default_rng(derive(7, "corrupt", "u", source))
        levels = getattr(corruption_loops, name)(picture, rng, *CONSTANTS[constants][name][severity - 1])
        # Rounding errors must not decide a whole level, as in the module.
        made.append(np.floor(levels.clip(0, 255) + 1e-6))
    return torch.from_numpy(np.stack(made)).byte()


def test_the_names_are_the_papers_in_the_order_of_its_users():
    users = (
        *("spatter", "elastic", "saturate", "defocus", "gaussian_noise"),
        *("brightness", "gaussian_blur", "jpeg", "contrast", "impulse_noise"),
    )
    assert users == NAMES
    assert set(module.TRANSFORMS) == set(NAMES)
    for table in CONSTANTS.values():
        assert set(table) == set(NAMES)
        assert all(len(arguments) == 5 for arguments in table.values())


def test_the_papers_severity_has_the_published_constants():
    """Severity 3 for 64 pixels; elsewhere the loops share the module's tables."""
    assert {name: table[2] for name, table in CONSTANTS["tiny_imagenet_c"].items()} == {
        "spatter": (0.65, 0.3, 1, 0.69, 0.6, 0),
        "elastic": (6.4, 5.12, 3.84),
        "saturate": (2, 0),
        "defocus": (1.5, 0.1),
        "gaussian_noise": (0.12,),
        "brightness": (0.3,),
        "gaussian_blur": (1,),
        "jpeg": (50,),
        "contrast": (0.2,),
        "impulse_noise": (0.05,),
    }


@sets_of_constants
@severities
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("spatter", "jpeg")])
def test_every_byte_is_the_slow_loops(name: str, severity: int, constants: str):
    pixels = noise(2)
    # Greys and black, where hue and saturation have no definition of their own.
    pixels[0, :, 0] = torch.arange(0, 250, 28, dtype=torch.uint8)
    sources = torch.tensor([40, 2])
    expected = reference(name, pixels, severity, sources, constants)
    assert torch.equal(corrupt(name, pixels, severity, sources, 7, "u", constants), expected)


@needs_opencv
@sets_of_constants
@severities
def test_every_byte_of_spatter_is_the_slow_loops(severity: int, constants: str):
    pixels, sources = landscape(40, 24), torch.tensor([3])
    expected = reference("spatter", pixels, severity, sources, constants)
    assert not torch.equal(expected, pixels)
    assert torch.equal(corrupt("spatter", pixels, severity, sources, 7, "u", constants), expected)


@needs_opencv
def test_liquid_thicker_than_one_stays_thick():
    picture, arguments = landscape(40, 24).numpy(), (0.95, 0.3, 1, 0.69, 0.6, 0)
    (made,) = module.TRANSFORMS["spatter"](picture / 255, iter([np.random.default_rng(0)]), *arguments)
    expected = corruption_loops.spatter(picture[0], np.random.default_rng(0), *arguments)
    np.testing.assert_allclose(made * 255, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("height", [3, 16])
def test_elastic_is_the_slow_loops_on_long_images(height: int):
    pixels, sources = noise(1, height, 20), torch.tensor([1])
    for severity in (1, 3):
        expected = reference("elastic", pixels, severity, sources, "tiny_imagenet_c")
        assert torch.equal(corrupt("elastic", pixels, severity, sources, 7, "u"), expected)


@sets_of_constants
def test_jpeg_is_the_standards_at_its_quality_and_no_other(constants: str):
    pixels = landscape(48, 64)
    loops = [reference("jpeg", pixels, severity, numbered(pixels), constants).float() for severity in SEVERITIES]
    for severity in SEVERITIES:
        made = corrupt("jpeg", pixels, severity, numbered(pixels), 7, "u", constants).float()
        own, *others = sorted((float((made - loop).abs().mean()), s) for s, loop in zip(SEVERITIES, loops, strict=True))
        # libjpeg computes in integers: a coefficient half-way between two multiples may go to the other.
        assert own[1] == severity
        assert own[0] < min(2, others[0][0] / 2)


def test_jpeg_halves_the_resolution_of_colours():
    stripes = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    stripes[:, 0, :, ::2] = 200
    stripes[:, 2, :, 1::2] = 200
    # Red and blue columns average to one colour, so that red less blue becomes the same everywhere.
    made = corrupt("jpeg", stripes, 1, numbered(stripes), 0, "u").float()
    assert (made[:, 0] - made[:, 2]).std() < 10


@needs_opencv
@sets_of_constants
@severities
def test_spatter_is_as_it_was(severity: int, constants: str):
    """Edges and drops are OpenCV's; another release may place a few elsewhere."""
    with np.load(GOLDEN) as golden:
        expected = torch.from_numpy(golden[f"{constants}_{severity}"]).short()
    made = corrupt("spatter", landscape(48, 48), severity, torch.tensor([11]), 7, "golden", constants).short()
    assert ((made - expected).abs() <= 1).float().mean() > 0.98


@needs_opencv
@sets_of_constants
@severities
def test_spatter_adds_water_or_covers_with_mud(severity: int, constants: str):
    pixels = noise(6, 64, 64) // 4 + 10
    made = corrupt("spatter", pixels, severity, numbered(pixels), 0, "u", constants).double()
    mix, mud = CONSTANTS[constants]["spatter"][severity - 1][4:]
    hit = (made != pixels).any(1)
    assert all(0 < share < 0.6 for share in hit.double().mean((1, 2)))
    if mud:
        brown = torch.tensor(module.MUD)[:, None, None]
        assert ((made - brown).abs() <= (pixels - brown).abs() + 1).all()
        # A cover is at least 0.8, or it is not there.
        assert ((made - brown).abs() <= 0.2 * (pixels - brown).abs() + 1)[hit[:, None].expand(-1, 3, -1, -1)].all()
    else:
        share = (made - pixels) / torch.tensor(module.WATER)[:, None, None]
        assert (share >= 0).all()
        # One share for all three channels, and its peak in each image is the mix.
        assert (share.amax(1) - share.amin(1)).max() < 1 / 175
        torch.testing.assert_close(share.amax((1, 2, 3)), torch.full((6,), mix).double(), rtol=0, atol=1 / 175)


def test_defocus_of_the_paper_is_a_box():
    """Severity 3 is the mean over 3x3 pixels, severity 1 a Gaussian of 0.6 on 3x3."""
    pixels = noise(3)
    x = torch.nn.functional.pad(pixels.double(), (1, 1, 1, 1), mode="reflect")
    box = torch.nn.functional.avg_pool2d(x, 3, stride=1)
    assert torch.equal(corrupt("defocus", pixels, 3, numbered(pixels), 0, "u"), (box + 1e-6).byte())
    row = torch.exp(-torch.tensor([1, 0, 1]).double() / (2 * 0.6**2))
    kernel = torch.outer(row, row) / row.sum() ** 2
    soft = torch.nn.functional.conv2d(x, kernel.expand(3, 1, 3, 3), groups=3)
    assert torch.equal(corrupt("defocus", pixels, 1, numbered(pixels), 0, "u"), (soft + 1e-6).byte())


@sets_of_constants
def test_weights_of_defocus_add_up_to_one_unless_the_disk_meets_its_square(constants: str):
    for radius, sigma in CONSTANTS[constants]["defocus"]:
        total = module.disk(radius, sigma).sum()
        assert total == pytest.approx({8: 1.013, 10: 1.011}.get(radius, 1), abs=5e-4 if radius >= 8 else 1e-12)


@names
@severities
def test_bytes_of_the_same_shape_and_an_untouched_input(name: str, severity: int):
    pixels = noise()
    before = pixels.clone()
    made = corrupt(name, pixels, severity, numbered(pixels), 0, "u")
    assert made.dtype == torch.uint8
    assert made.shape == pixels.shape
    assert torch.equal(pixels, before)
    made.zero_()
    assert torch.equal(pixels, before)


@names
@severities
def test_an_image_is_the_same_in_every_batch_and_order(name: str, severity: int, monkeypatch: pytest.MonkeyPatch):
    pixels, sources = noise(7, 24, 20), torch.tensor([5, 900, 0, 41, 2, 3, 77])
    whole = corrupt(name, pixels, severity, sources, 0, "u")
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert torch.equal(corrupt(name, pixels[order], severity, sources[order], 0, "u"), whole[order])
    alone = [corrupt(name, pixels[i : i + 1], severity, sources[i : i + 1], 0, "u") for i in range(7)]
    assert torch.equal(torch.cat(alone), whole)
    channels_last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(corrupt(name, channels_last, severity, sources, 0, "u"), whole)
    monkeypatch.setattr(module, "CHUNK", 3 * 24 * 20 * 2)
    assert torch.equal(corrupt(name, pixels, severity, sources, 0, "u"), whole)


@names
def test_only_random_corruptions_read_seed_user_and_source(name: str):
    pixels = landscape(48, 48)
    one = torch.tensor([1])
    made = corrupt(name, pixels, 3, one, 0, "u")
    assert torch.equal(corrupt(name, pixels, 3, one, 0, "u"), made)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(corrupt(name, pixels, 3, one, 0, "u"), made)
    others = [
        corrupt(name, pixels, 3, one, 1, "u"),
        corrupt(name, pixels, 3, one, 0, "v"),
        corrupt(name, pixels, 3, one, 0, 1),
        corrupt(name, pixels, 3, torch.tensor([2]), 0, "u"),
    ]
    assert all(torch.equal(other, made) == (name not in DRAWN) for other in others)


def digest() -> str:
    pixels = landscape(32, 40).repeat(3, 1, 1, 1)
    available = [name for name in NAMES if name != "spatter" or find_spec("cv2")]
    made = [corrupt(name, pixels, s, numbered(pixels), 3, "u") for name in available for s in (1, 3, 5)]
    return hashlib.sha256(torch.cat(made).numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_images_are_the_same_in_another_process():
    code = "from tests.data.test_corruptions import digest; print(digest())"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == digest()


def test_levels_are_truncated_not_rounded():
    for severity, level in ((1, 125), (3, 176), (5, 227)):
        assert (corrupt("brightness", flat(100), severity, torch.tensor([0]), 0, "u") == level).all()
    two = flat(0)
    two[..., ::2] = 9
    # Mean 4.5, factor 0.4: 2.7 and 6.3.
    made = corrupt("contrast", two, 1, torch.tensor([0]), 0, "u")
    assert made.unique().tolist() == [2, 6]


@sets_of_constants
@severities
def test_gaussian_noise_has_its_standard_deviation(severity: int, constants: str):
    (std,) = CONSTANTS[constants]["gaussian_noise"][severity - 1]
    pixels = flat(128, 24)
    made = corrupt("gaussian_noise", pixels, severity, numbered(pixels), 0, "u", constants).double()
    # Quantiles, because clipping at black and white changes moments: one standard deviation to either side.
    levels = torch.quantile(made.flatten(), torch.tensor([0.158655, 0.5, 0.841345]).double()).tolist()
    assert levels == pytest.approx([128 - 255 * std, 128, 128 + 255 * std], abs=1 + 255 * std * 0.01)
    if std <= 0.12:
        # Truncation takes half a level away.
        assert float(made.mean()) - 127.5 == pytest.approx(0, abs=4 * 255 * std / made.numel() ** 0.5)
        assert float(made.std()) == pytest.approx(255 * std, rel=0.01)
    of_pixel = made.transpose(0, 1).flatten(1)
    assert (torch.corrcoef(of_pixel) - torch.eye(3)).abs().max() < 0.02


@sets_of_constants
@severities
def test_impulse_noise_hits_its_fraction_of_values_half_white_half_black(severity: int, constants: str):
    (fraction,) = CONSTANTS[constants]["impulse_noise"][severity - 1]
    pixels = flat(128, 24)
    made = corrupt("impulse_noise", pixels, severity, numbered(pixels), 0, "u", constants)
    assert set(made.unique().tolist()) == {0, 128, 255}
    for level in (0, 255):
        tolerance = 4 * (fraction / 2 / made.numel()) ** 0.5
        assert float((made == level).double().mean()) == pytest.approx(fraction / 2, abs=tolerance)
    hit = made != 128
    pairs = float((hit[:, 0] & hit[:, 1]).double().mean())
    assert pairs == pytest.approx(fraction**2, abs=5 * fraction / (made.numel() / 3) ** 0.5)


def test_stronger_noise_is_the_same_noise():
    pixels = flat(128, 3)
    made = [corrupt("impulse_noise", pixels, s, numbered(pixels), 0, "u") for s in SEVERITIES]
    for weak, strong in pairwise(made):
        assert torch.equal(strong[weak != 128], weak[weak != 128])
    weak, strong = (corrupt("gaussian_noise", pixels, s, numbered(pixels), 0, "u").double() for s in (1, 2))
    assert (((strong - 127.5) - 2 * (weak - 127.5)).abs() <= 1.5)[(strong > 0) & (strong < 255)].all()


@law
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_a_higher_severity_is_brighter_and_has_less_contrast(seed: int, height: int, width: int):
    pixels = noise(2, height, width, seed)
    bright = [pixels.int()] + [corrupt("brightness", pixels, s, numbered(pixels), 0, "u").int() for s in SEVERITIES]
    for lower, higher in pairwise(bright):
        assert (higher >= lower).all()
    dull = [pixels.int()] + [corrupt("contrast", pixels, s, numbered(pixels), 0, "u").int() for s in SEVERITIES]
    spans = torch.stack([made.amax((2, 3)) - made.amin((2, 3)) for made in dull])
    # Two truncated levels can be one further apart than the levels.
    assert (spans.diff(dim=0) <= 1).all()


@law
@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(3, 20), st.integers(3, 20), st.sampled_from(SEVERITIES))
def test_a_flat_image_stays(colour: tuple[int, int, int], height: int, width: int, severity: int):
    pixels = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].repeat(1, 1, height, width)
    for name in ("elastic", "defocus", "gaussian_blur", "contrast"):
        assert torch.equal(corrupt(name, pixels, severity, torch.tensor([3]), 0, "u"), pixels), name


@law
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.sampled_from(SEVERITIES))
def test_mirroring_an_image_mirrors_the_result(seed: int, height: int, width: int, severity: int):
    pixels = noise(2, height, width, seed)
    for name in ("saturate", "defocus", "brightness", "gaussian_blur", "contrast"):
        made = corrupt(name, pixels, severity, numbered(pixels), 0, "u")
        for axis in (2, 3):
            assert torch.equal(corrupt(name, pixels.flip(axis), severity, numbered(pixels), 0, "u"), made.flip(axis))


@law
@given(st.integers(0, 2**32 - 1), st.permutations(range(3)), st.sampled_from(SEVERITIES))
def test_channels_are_worked_on_alike(seed: int, order: list[int], severity: int):
    pixels = noise(2, seed=seed)
    for name in ("elastic", "defocus", "brightness", "gaussian_blur", "contrast"):
        made = corrupt(name, pixels, severity, numbered(pixels), 0, "u")
        assert torch.equal(corrupt(name, pixels[:, order], severity, numbered(pixels), 0, "u"), made[:, order])


def test_grey_turns_reddish_only_where_saturation_is_added():
    grey = flat(100)
    made = [corrupt("saturate", grey, s, torch.tensor([0]), 0, "u")[0, :, 0, 0].tolist() for s in SEVERITIES]
    assert made == [[100] * 3, [100] * 3, [100] * 3, [100, 90, 90], [100, 80, 80]]
    assert (corrupt("saturate", flat(0), 5, torch.tensor([0]), 0, "u") == 0).all()


def test_elastic_of_severity_one_moves_but_does_not_bend():
    """Straight edges of a picture stay straight: second differences along the image vanish away from the borders."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64) * 2 + 60
    made = corrupt("elastic", ramp, 1, torch.tensor([4]), 0, "u").double()[..., 24:40, 24:40]
    assert made.diff(dim=3).diff(dim=3).abs().max() <= 1
    assert made.diff(dim=2).diff(dim=2).abs().max() <= 1


@names
@sets_of_constants
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 2), (3, 20), (20, 3), (3, 3), (17, 16)], ids=str)
def test_tiny_and_long_images_work_or_say_why(name: str, constants: str, size: tuple[int, int]):
    pixels = noise(2, *size)
    for severity in SEVERITIES:
        if name == "elastic" and min(size) < 3:
            with pytest.raises(
                InputError, match=f"elastic needs images of at least 3x3 pixels, got {size[0]}x{size[1]}"
            ):
                corrupt(name, pixels, severity, numbered(pixels), 0, "u", constants)
        else:
            assert corrupt(name, pixels, severity, numbered(pixels), 0, "u", constants).shape == pixels.shape


@names
def test_no_images_are_no_images(name: str):
    empty = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    assert corrupt(name, empty, 3, torch.empty(0, dtype=torch.int64), 0, "u").shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "fog"}, "'fog'; choose one of spatter, elastic, saturate, .*, impulse_noise"),
        ({"severity": 0}, "1, 2, 3, 4 or 5, got 0"),
        ({"severity": 6}, "1, 2, 3, 4 or 5, got 6"),
        ({"severity": 2.5}, "1, 2, 3, 4 or 5, got 2.5"),
        ({"constants": "cifar"}, "'cifar'; choose tiny_imagenet_c or imagenet_c"),
        ({"pixels": torch.zeros(2, 3, 4, 4)}, r"uint8, got \(2, 3, 4, 4\) torch.float32"),
        ({"pixels": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, r"\(n, 3, height, width\) uint8, got \(2, 1, 4, 4\)"),
        ({"pixels": torch.zeros(3, 4, 4, dtype=torch.uint8)}, r"got \(3, 4, 4\)"),
        ({"pixels": torch.zeros(2, 3, 0, 4, dtype=torch.uint8)}, r"got \(2, 3, 0, 4\)"),
        ({"sources": torch.arange(3)}, r"2 images need as many sources, got \(3,\)"),
    ],
)
def test_errors_name_the_value_and_the_choices(change: dict[str, object], says: str):
    good = {"name": "contrast", "pixels": noise(2), "severity": 3, "sources": torch.arange(2), "seed": 0, "user": "u"}
    with pytest.raises(InputError, match=says) as caught:
        corrupt(**(good | change))
    assert "\n" not in str(caught.value)


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    pixels = noise(1)
    with pytest.raises(InputError, match=r"spatter needs OpenCV.*pip install opencv-python-headless"):
        corrupt("spatter", pixels, 3, numbered(pixels), 0, "u")
    for name in NAMES[1:]:
        corrupt(name, pixels, 3, numbered(pixels), 0, "u")


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    drawn = {
        f"{constants}_{severity}": corrupt(
            "spatter", landscape(48, 48), severity, torch.tensor([11]), 7, "golden", constants
        ).numpy()
        for constants in CONSTANTS
        for severity in SEVERITIES
    }
    np.savez_compressed(GOLDEN, **drawn)
