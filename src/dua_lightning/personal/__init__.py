"""Personal models as files: out of a run, into a folder that any program can read, and back."""

from dua_lightning.personal.files import load, save
from dua_lightning.personal.finished import personal_models
from dua_lightning.personal.model import PersonalModel

__all__ = ["PersonalModel", "load", "personal_models", "save"]
