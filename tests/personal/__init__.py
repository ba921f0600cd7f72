"""Personal models as files."""
