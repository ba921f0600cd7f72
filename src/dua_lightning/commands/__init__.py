"""The commands besides a run: `dua store`, `dua report`, `dua compare`, `dua export`, `dua predict`."""
