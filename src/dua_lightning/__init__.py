"""Personal models from a server's experts and a user's importance prior (DUA, CVPR 2020), on PyTorch Lightning."""

__version__ = "0.1.0"
