"""The ten corruptions, pixel by pixel, from their formulas.

A picture is `(3, height, width)` in levels 0 to 255; what comes back is in levels too, before clipping and truncation.
"""

import colorsys
import heapq
import math
from collections.abc import Callable, Iterator

import numpy as np


def pixels(picture: np.ndarray) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(picture.shape[-2]) for j in range(picture.shape[-1]))


def values(picture: np.ndarray) -> Iterator[tuple[int, int, int]]:
    return ((c, i, j) for c in range(len(picture)) for i, j in pixels(picture))


def mirror(i: int, n: int) -> int:
    """dcb|abcd|cba"""
    while not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


def reflect(i: int, n: int) -> int:
    """cba|abcd|dcb"""
    while not 0 <= i < n:
        i = -i - 1 if i < 0 else 2 * n - 1 - i
    return i


def nearest(i: int, n: int) -> int:
    """aaa|abcd|ddd"""
    return min(max(i, 0), n - 1)


def gaussian(sigma: float, truncate: float) -> dict[int, float]:
    """Offset -> weight."""
    reach = math.floor(truncate * sigma + 0.5)
    weights = {d: math.exp(-(d**2) / (2 * sigma**2)) if sigma else 1.0 for d in range(-reach, reach + 1)}
    return {d: weight / sum(weights.values()) for d, weight in weights.items()}


def smooth(plane: np.ndarray, weights: dict[int, float], border: Callable[[int, int], int]) -> np.ndarray:
    """Down the columns, then along the rows."""
    for _ in range(2):
        n, m = plane.shape
        plane = np.array(
            [[sum(w * plane[border(i + d, n), j] for d, w in weights.items()) for i in range(n)] for j in range(m)]
        )
    return plane


def hsv(picture: np.ndarray, change: Callable[[float, float, float], tuple[float, float, float]]) -> np.ndarray:
    out = np.empty(picture.shape)
    for i, j in pixels(picture):
        rgb = [float(level) / 255 for level in picture[:, i, j]]
        out[:, i, j] = [255 * v for v in colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*rgb)))]
    return out


def saturate(picture: np.ndarray, _: np.random.Generator, factor: float, offset: float) -> np.ndarray:
    return hsv(picture, lambda h, s, v: (h, min(max(factor * s + offset, 0), 1), v))


def brightness(picture: np.ndarray, _: np.random.Generator, offset: float) -> np.ndarray:
    return hsv(picture, lambda h, s, v: (h, s, min(v + offset, 1)))


def contrast(picture: np.ndarray, _: np.random.Generator, factor: float) -> np.ndarray:
    out = np.empty(picture.shape)
    for c, i, j in values(picture):
        mean = math.fsum(picture[c].flatten().tolist()) / picture[c].size
        out[c, i, j] = mean * (1 - factor) + factor * float(picture[c, i, j])
    return out


def disk(radius: float, sigma: float) -> dict[tuple[int, int], float]:
    """Offset -> weight: a disk softened by a small Gaussian, mirrored at the edge of the square that holds it."""
    half, reach = (8, 1) if radius <= 8 else (round(radius), 2)
    square = [(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
    hard = {(i, j): math.hypot(i, j) <= radius for i, j in square}
    soft = {
        (a, b): math.exp(-(a * a + b * b) / (2 * sigma**2))
        for a in range(-reach, reach + 1)
        for b in range(-reach, reach + 1)
    }
    total = sum(hard.values()) * sum(soft.values())
    n = 2 * half + 1
    return {
        (i, j): sum(
            w * hard[mirror(i + a + half, n) - half, mirror(j + b + half, n) - half] for (a, b), w in soft.items()
        )
        / total
        for i, j in square
    }


def defocus(picture: np.ndarray, _: np.random.Generator, radius: float, sigma: float) -> np.ndarray:
    _, n, m = picture.shape
    weights = disk(radius, sigma)
    out = np.empty(picture.shape)
    for c, i, j in values(picture):
        out[c, i, j] = sum(w * float(picture[c, mirror(i + a, n), mirror(j + b, m)]) for (a, b), w in weights.items())
    return out


def gaussian_blur(picture: np.ndarray, _: np.random.Generator, sigma: float) -> np.ndarray:
    return np.stack([smooth(plane.astype(float), gaussian(sigma, 4), nearest) for plane in picture])


def gaussian_noise(picture: np.ndarray, rng: np.random.Generator, std: float) -> np.ndarray:
    out = np.empty(picture.shape)
    for c, i, j in values(picture):
        out[c, i, j] = float(picture[c, i, j]) + 255 * std * rng.standard_normal()
    return out


def impulse_noise(picture: np.ndarray, rng: np.random.Generator, fraction: float) -> np.ndarray:
    out = np.empty(picture.shape)
    for c, i, j in values(picture):
        u = rng.random()
        out[c, i, j] = 0 if u < fraction / 2 else 255 if 1 - u <= fraction / 2 else picture[c, i, j]
    return out


def bilinear(plane: np.ndarray, i: float, j: float, border: Callable[[int, int], int]) -> float:
    n, m = plane.shape
    rows, columns = ((math.floor(x), math.floor(x) + 1) for x in (i, j))
    return sum(
        (1 - abs(i - a)) * (1 - abs(j - b)) * float(plane[border(a, n), border(b, m)]) for a in rows for b in columns
    )


def elastic(picture: np.ndarray, rng: np.random.Generator, amplitude: float, sigma: float, jitter: float) -> np.ndarray:
    """The affine map by barycentric coordinates: a pixel's weights for the moved points, applied to the still ones."""
    _, n, m = picture.shape
    third = min(n, m) // 3
    still = [(n // 2 + third * a, m // 2 + third * b) for a, b in ((1, 1), (1, -1), (-1, -1))]
    moved = [(p + rng.uniform(-jitter, jitter), q + rng.uniform(-jitter, jitter)) for p, q in still]
    fields = [np.array([[rng.uniform(-1, 1) for _ in range(m)] for _ in range(n)]) for _ in range(2)]
    down, right = (smooth(field, gaussian(sigma, 3), reflect) for field in fields)

    def twice_area(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    p, q, r = moved
    warped, bent = np.empty(picture.shape), np.empty(picture.shape)
    for c, i, j in values(picture):
        at = (float(i), float(j))
        weights = [
            area / twice_area(p, q, r) for area in (twice_area(at, q, r), twice_area(p, at, r), twice_area(p, q, at))
        ]
        row, column = (sum(w * s[axis] for w, s in zip(weights, still, strict=True)) for axis in (0, 1))
        warped[c, i, j] = bilinear(picture[c], row, column, mirror)
    for c, i, j in values(picture):
        bent[c, i, j] = bilinear(warped[c], i + amplitude * down[i, j], j + amplitude * right[i, j], reflect)
    return bent


def spatter(
    picture: np.ndarray,
    rng: np.random.Generator,
    loc: float,
    scale: float,
    sigma: float,
    threshold: float,
    mix: float,
    mud: float,
) -> np.ndarray:
    """Water's edges are OpenCV's; everything else is done here."""
    _, n, m = picture.shape
    layer = np.array([[rng.normal(loc, scale) for _ in range(m)] for _ in range(n)])
    layer = smooth(layer, gaussian(sigma, 4), nearest)
    out = np.empty(picture.shape)
    if mud:
        cover = smooth((layer > threshold).astype(float), gaussian(mix, 4), nearest)
        for c, i, j in values(picture):
            share = cover[i, j] if cover[i, j] >= 0.8 else 0
            out[c, i, j] = (1 - share) * float(picture[c, i, j]) + share * (63, 42, 20)[c]
        return out
    import cv2

    liquid = np.array([[int(255 * min(v, 1)) if v >= threshold else 0 for v in row] for row in layer], np.uint8)
    distance = chamfer(cv2.Canny(liquid, 50, 150) > 0)
    mean = [[1 / 9] * 3] * 3
    near = filtered(np.minimum(distance, 20), mean).astype(np.float32).astype(int)
    lit = filtered(equalised(near), [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]).clip(0, 255)
    drops = liquid * np.round(filtered(lit, mean))
    for c, i, j in values(picture):
        share = mix * drops[i, j] / drops.max() if drops.max() else 0
        out[c, i, j] = float(picture[c, i, j]) + share * (175, 238, 238)[c]
    return out


def filtered(plane: np.ndarray, weights: list[list[float]]) -> np.ndarray:
    n, m = plane.shape
    out = np.empty(plane.shape)
    for i, j in pixels(plane):
        out[i, j] = math.fsum(
            weights[a][b] * float(plane[mirror(i + a - 1, n), mirror(j + b - 1, m)]) for a in range(3) for b in range(3)
        )
    return out


def chamfer(edges: np.ndarray) -> np.ndarray:
    """Length of the shortest way to an edge by steps of a king and a knight, as OpenCV weighs them: in 16-bit parts."""
    costs = {(0, 1): 65536, (1, 1): 91750, (1, 2): 143976}
    steps = [
        (a, b, costs[min(abs(a), abs(b)), max(abs(a), abs(b))])
        for a in range(-2, 3)
        for b in range(-2, 3)
        if (min(abs(a), abs(b)), max(abs(a), abs(b))) in costs
    ]
    far = {(i, j): 0 if edges[i, j] else 10**9 for i, j in pixels(edges)}
    heap = [(0, at) for at, d in far.items() if d == 0]
    while heap:
        d, (i, j) = heapq.heappop(heap)
        for a, b, cost in steps:
            if d + cost < far.get((i + a, j + b), 0):
                far[i + a, j + b] = d + cost
                heapq.heappush(heap, (d + cost, (i + a, j + b)))
    return np.array([[far[i, j] / 65536 for j in range(edges.shape[1])] for i in range(edges.shape[0])])


def equalised(plane: np.ndarray) -> np.ndarray:
    """A level becomes 255 times the share of the pixels above the lowest level that are not above it."""
    levels = sorted(plane.flatten().tolist())
    lowest = levels.count(levels[0])
    if lowest == len(levels):
        return plane
    rank = {v: sum(level <= v for level in levels) - lowest for v in set(levels)}
    return np.array([[round(255 * rank[v] / (len(levels) - lowest)) for v in row] for row in plane.tolist()])


LUMINANCE = """
    16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
CHROMINANCE = (
    """
    17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99"""
    + " 99" * 32
)
"""Annex K of ITU-T T.81: divisors at quality 50."""


def jpeg(picture: np.ndarray, _: np.random.Generator, quality: float) -> np.ndarray:
    """Sides in multiples of 16. Colours at half the resolution, 8x8 cosine transforms, divided and rounded."""
    r, g, b = picture.astype(float)
    y = (0.299 * r + 0.587 * g + 0.114 * b).round()
    blue, red = ((0.5 * (b - y) / (1 - 0.114) + 128).round(), (0.5 * (r - y) / (1 - 0.299) + 128).round())
    y = coded(y, LUMINANCE, quality)
    blue, red = (doubled(coded(halved(plane), CHROMINANCE, quality)) - 128 for plane in (blue, red))
    return np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]).round().clip(0, 255)


def coded(plane: np.ndarray, divisors: str, quality: float) -> np.ndarray:
    scale = 5000 // int(quality) if quality < 50 else 200 - 2 * int(quality)
    table = np.array([min(max((int(v) * scale + 50) // 100, 1), 255) for v in divisors.split()]).reshape(8, 8)
    cosine = np.array(
        [
            [math.sqrt((1 if k == 0 else 2) / 8) * math.cos((2 * x + 1) * k * math.pi / 16) for x in range(8)]
            for k in range(8)
        ]
    )
    out = np.empty(plane.shape)
    for i in range(0, plane.shape[0], 8):
        for j in range(0, plane.shape[1], 8):
            block = cosine @ (plane[i : i + 8, j : j + 8] - 128) @ cosine.T
            out[i : i + 8, j : j + 8] = cosine.T @ ((block / table).round() * table) @ cosine + 128
    return out.round().clip(0, 255)


def halved(plane: np.ndarray) -> np.ndarray:
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


def doubled(plane: np.ndarray) -> np.ndarray:
    """Each new pixel lies a quarter from the nearest old one: 3/4 of it and 1/4 of the next, along both axes."""
    n, m = plane.shape
    out = np.empty((2 * n, 2 * m))
    for i, j in pixels(out):
        rows = {i // 2: 0.75, i // 2 + 2 * (i % 2) - 1: 0.25}
        columns = {j // 2: 0.75, j // 2 + 2 * (j % 2) - 1: 0.25}
        out[i, j] = sum(
            w * v * plane[nearest(a, n), nearest(b, m)] for a, w in rows.items() for b, v in columns.items()
        )
    return out
