"""What a person types besides a run: `dua store`, `dua report`, `dua compare`."""
