"""The named facts that make a score comparable. Two scores may be compared only if their protocols are equal."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from segjax.core.config import nearest

COMPARED = {"micro": "mIoU", "per_image": "per_image_mIoU"}
"""reduction -> the score that is compared, where a protocol names no other."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a score was made.

    Attributes:
      dataset, split: what was scored.
      num_classes: the classes that the mean is over.
      images: which they are, where the names of data set and split do not say it, as of a folder of one's own: 8 digits
        of the SHA-256 of the names of its classes and examples; else "".
      labels: how the values of the files became these classes, where that is not one to one.
      resize: "native", or "HxW" where images and labels were resized when read.
      short_side, long_side: the network sees the image, keeping its ratio, as large as a shorter side of the one and a
        longer side of the other allow, pixels; 0 is no limit, 0 and 0 the image as it is. Labels keep their size.
      resize_multiple: and then resized up to sides that are multiples of this, which changes the ratio.
      align_corners: whether these two resizings, and those of `scales`, put the centres of the corner pixels on each
        other rather than the corners of the pictures.
      window, stride: (height, width) of the sliding window in pixels, or None for the whole image.
      window_padding: "zeros" where the image is smaller than the window, or "mirror": windows side by side, each
        computed from its surroundings with the image mirrored at its edges (overlap-tile).
      window_blend: how overlapping windows are averaged, "uniform" or "gaussian", by the distance from their centre.
      scales, flip: test-time augmentation; probabilities are averaged.
      size_multiple: whole images are padded to this at the bottom and right, and the padding is cut again.
      crf: iterations, parameters, normalization and filters of the fully connected CRF on the probabilities, as pairs
        (name, value), or None where there is none.
      clip: 0 where each image is scored by itself; else clips are read in windows of so many frames, in order, and the
        states of a recurrent network go from window to window.
      corruption: what was done to the images before, or "".
      area: pixels at the (top, bottom, left, right) of each image that are not scored.
      ignore: which pixels are not counted.
      reduction: "micro": one confusion matrix over all pixels of the split; "per_image": the mean over the images.
      score: the score that papers with this protocol compare, a name in the results.
    """

    dataset: str
    split: str
    num_classes: int
    images: str = ""
    labels: str = "as in the files"
    resize: str = "native"
    short_side: int = 0
    long_side: int = 0
    resize_multiple: int = 1
    align_corners: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    window_padding: str = "zeros"
    window_blend: str = "uniform"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    size_multiple: int = 32
    crf: tuple[tuple[str, Any], ...] | None = None
    clip: int = 0
    corruption: str = ""
    area: tuple[int, int, int, int] = (0, 0, 0, 0)
    ignore: str = "unlabelled pixels"
    reduction: str = "micro"
    score: str = "mIoU"

    @property
    def name(self) -> str:
        """Short name for files: `camvid_test_180x240_whole`, `..._window512x512_ms3_flip`."""
        parts = [self.dataset, self.split]
        if self.resize != "native":
            parts.append(self.resize)
        if self.short_side:
            parts.append(f"short{self.short_side}")
        if self.long_side:
            parts.append(f"long{self.long_side}")
        if self.resize_multiple > 1:
            parts.append(f"multiple{self.resize_multiple}")
        if self.align_corners:
            parts.append("corners")
        parts.append("whole" if self.window is None else "window{}x{}".format(*self.window))
        if self.stride is not None:
            parts.append("stride{}x{}".format(*self.stride))
        if self.window_padding != "zeros":
            parts.append(self.window_padding)
        if self.window_blend != "uniform":
            parts.append(self.window_blend)
        if self.scales != (1.0,):
            parts.append("scales" + "-".join(f"{scale:g}" for scale in self.scales))
        if self.flip:
            parts.append("flip")
        if self.crf is not None:
            parts.append("crf")
        if self.clip:
            parts.append(f"clips{self.clip}")
        if self.corruption:
            parts.append(self.corruption)
        if any(self.area):
            parts.append("area" + "-".join(map(str, self.area)))
        if self.reduction != "micro":
            parts.append(self.reduction)
        return "_".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "crf": dict(self.crf) if self.crf else None}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Protocol":
        """The inverse of `to_dict`, also after it went through JSON, and of a version with fewer fields.

        Raises:
          ValueError: a field is missing that has no default, or is not known to this version.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(fields.keys() - known.keys())
        missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in fields]
        if unknown or missing:
            raise ValueError(
                f"a protocol must have the fields {', '.join(known)}; it lacks {missing or 'none'}, and these are not"
                f" known: {unknown or 'none'}. It may be of another version of segjax"
            )
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        if values.get("crf") is not None:
            values["crf"] = tuple(dict(values["crf"]).items())
        return cls(**values)

    def differences(self, other: "Protocol") -> list[str]:
        """One line for each fact that differs, `field: this | other`; empty where scores may be compared."""
        return [
            f"{field.name}: {getattr(self, field.name)} | {getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


METHOD = ("images", "crf", "clip", "corruption")
"""Facts that belong to one's data, a method or a study rather than to a benchmark: ready protocols have them not."""

_ADE20K = Protocol("ade20k", "val", 150, short_side=512, long_side=2048, size_multiple=1)

PROTOCOLS: dict[str, Protocol] = {
    # Everingham et al. 2010, IoU over the whole set; the split of DeepLab and later papers. Padded with the mean, so
    # that few of its many sizes are compiled, as DeepLab's own evaluation pads to 513x513.
    "voc2012_val": Protocol("voc2012", "val", 21),
    # Long et al. 2015: the images of VOC 2011's val that SBD does not train on. (They did not pad.)
    "seg11valid": Protocol("voc2012", "seg11valid", 21),
    # Badrinarayanan et al. 2017: 233 images of 360x480, eleven classes, void not counted.
    "camvid_11": Protocol("camvid", "test", 11, size_multiple=1),
    # Cordts et al. 2016: 1024x2048, whole images.
    "cityscapes_val": Protocol("cityscapes", "val", 19, size_multiple=1),
    # As in mmsegmentation's configs of SegFormer and UPerNet for ADE20K, whose numbers later papers compare with.
    "ade20k_val_ss": _ADE20K,
    "ade20k_val_ms": dataclasses.replace(_ADE20K, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True),
    # Arganda-Carreras et al. 2015, of our own split: the challenge's test labels are not public.
    "isbi2012_em": Protocol("isbi2012", "val", 2, size_multiple=1, reduction="per_image", score="V_rand"),
    # Perazzi et al. 2016: the mean of region similarity and contour accuracy over 20 clips.
    "davis2016": Protocol("davis2016", "val", 2, size_multiple=1, score="J&F"),
}
"""name -> how its benchmark is scored. What is left out stands with its default in `Protocol`."""


def named(name: str) -> Protocol:
    """A protocol of PROTOCOLS; ValueError where there is none of this name, which lists those that there are."""
    if name not in PROTOCOLS:
        raise ValueError(f"config.evaluation.protocol {name!r} is unknown; {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def ready(name: str, made: Protocol) -> Protocol:
    """A protocol of PROTOCOLS for what a config made, which may add only what belongs to a method, and take its split.

    Raises:
      ValueError: there is no such protocol, the data differ, or the config contradicts what the protocol sets.
    """
    taken = {field: getattr(made, field) for field in ("split", "labels", *METHOD)}
    wanted = dataclasses.replace(named(name), **taken)
    # The data must be those of the protocol. What the config leaves at its default gives way; padding and the score
    # that is compared are no wishes of the config.
    plain = Protocol(made.dataset, made.split, made.num_classes)
    unset = {
        field.name for field in dataclasses.fields(made) if getattr(made, field.name) == getattr(plain, field.name)
    }
    free = (unset - {"dataset", "num_classes", "resize"}) | {"size_multiple", "score"}
    wrong = [line for line in wanted.differences(made) if line.split(":")[0] not in free]
    if wrong:
        raise ValueError(
            f"config.evaluation.protocol={name!r} fixes how a score is made; of what it says (left) the config differs"
            " (right):\n  " + "\n  ".join(wrong) + "\nLeave these fields as they are by default, or the protocol out"
        )
    return wanted
