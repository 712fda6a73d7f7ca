"""The named facts that make a score comparable. Two scores may be compared only if their protocols are equal."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a score was made.

    Attributes:
      dataset, split: what was scored.
      num_classes: the classes that the mean is over.
      resize: "native", or "HxW" where images and labels were resized when read.
      window, stride: (height, width) of the sliding window in pixels, or None for the whole image.
      window_padding: "zeros" where the image is smaller than the window, or "mirror": windows side by side, each
        computed from its surroundings with the image mirrored at its edges (overlap-tile).
      scales, flip: test-time augmentation; probabilities are averaged.
      size_multiple: whole images are padded to this at the bottom and right, and the padding is cut again.
      crf: iterations, parameters, normalization and filters of the fully connected CRF on the probabilities, as pairs
        (name, value), or None where there is none.
      clip: 0 where each image is scored by itself; else clips are read in windows of so many frames, in order, and the
        states of a recurrent network go from window to window.
      ignore: which pixels are not counted.
      reduction: "micro": one confusion matrix over all pixels of the split.
    """

    dataset: str
    split: str
    num_classes: int
    resize: str = "native"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    window_padding: str = "zeros"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    size_multiple: int = 32
    crf: tuple[tuple[str, Any], ...] | None = None
    clip: int = 0
    ignore: str = "unlabelled pixels"
    reduction: str = "micro"

    @property
    def name(self) -> str:
        """Short name for files: `camvid_test_180x240_whole`, `..._window512x512_ms3_flip`."""
        parts = [self.dataset, self.split]
        if self.resize != "native":
            parts.append(self.resize)
        parts.append("whole" if self.window is None else "window{}x{}".format(*self.window))
        if self.stride is not None:
            parts.append("stride{}x{}".format(*self.stride))
        if self.window_padding != "zeros":
            parts.append(self.window_padding)
        if self.scales != (1.0,):
            parts.append("scales" + "-".join(f"{scale:g}" for scale in self.scales))
        if self.flip:
            parts.append("flip")
        if self.crf is not None:
            parts.append("crf")
        if self.clip:
            parts.append(f"clips{self.clip}")
        return "_".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "crf": dict(self.crf) if self.crf else None}

    def differences(self, other: "Protocol") -> list[str]:
        """One line for each fact that differs, `field: this | other`; empty where scores may be compared."""
        return [
            f"{field.name}: {getattr(self, field.name)} | {getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
