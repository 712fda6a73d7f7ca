"""What a backbone announces about its features."""

from typing import NamedTuple


class FeatureInfo(NamedTuple):
    """One feature map of a backbone.

    Attributes:
      level: its key: the stride that it has in the undilated network, 2, 4, 8, 16 or 32.
      stride: its stride in pixels of the input; smaller than the level where dilation replaced a stride.
      channels: its number of channels.
    """

    level: int
    stride: int
    channels: int
