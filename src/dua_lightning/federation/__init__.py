"""The verbs between a real server and real devices."""

import os

# Flower reads them when it is loaded: it then reports nothing, and looks for no update.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
