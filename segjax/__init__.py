"""segjax: image and semantic segmentation research in JAX and Flax."""

__version__ = "0.1.0"
