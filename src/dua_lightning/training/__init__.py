"""Training of experts on the server."""
