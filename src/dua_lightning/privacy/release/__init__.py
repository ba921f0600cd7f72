"""Releases: the step between a user's prior and the wire."""

from dua_lightning.privacy.release.base import Release, Released, WhileMeasuring
from dua_lightning.privacy.release.bf16 import BF16
from dua_lightning.privacy.release.chain import Chain
from dua_lightning.privacy.release.gaussian import Gaussian
from dua_lightning.privacy.release.int8 import Int8
from dua_lightning.privacy.release.least_images import LeastImages
from dua_lightning.privacy.release.levels import Levels
from dua_lightning.privacy.release.none import Plain
from dua_lightning.privacy.release.send import Sent, send
from dua_lightning.privacy.release.top_k import TopK

__all__ = [
    "BF16",
    "Chain",
    "Gaussian",
    "Int8",
    "LeastImages",
    "Levels",
    "Plain",
    "Release",
    "Released",
    "Sent",
    "TopK",
    "WhileMeasuring",
    "send",
]
