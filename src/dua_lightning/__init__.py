"""Personal models from a server's experts and a user's importance prior (DUA, CVPR 2020), on PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dua_lightning.personal import PersonalModel, load, personal_models, save

__version__ = "0.1.0"
__all__ = ["PersonalModel", "load", "personal_models", "save"]


def __getattr__(name: str) -> Any:
    """Give what needs torch, which help and configuration errors do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dua_lightning import personal

    return getattr(personal, name)
