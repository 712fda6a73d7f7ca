"""Networks that return features at strides 2, 4, 8, 16 and 32.

A backbone is a linen module. `backbone(image, train=train)` gives `{stride: features [N, H', W', C]}`, where
H' is H divided by the stride, rounded down at each halving. `backbone.feature_info` says, without running it,
how many channels each stride has.
"""

from typing import NamedTuple


class FeatureInfo(NamedTuple):
    """One feature map of a backbone: its stride in pixels of the input, and its channels."""

    stride: int
    channels: int
