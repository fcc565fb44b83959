"""Flashlight: attention as ordinary PyTorch in, a readable fused Triton kernel out."""

__version__ = "0.1.0"
