"""What a data set is to the rest of the code: a class table and a random-access source of decoded examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from segjax.core.batch import MAX_CLASSES


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The facts of a data set that models, losses, scores and pictures need.

    Attributes:
      name: key in `segjax.data.DATASETS`.
      class_names: one name a class, in the order of the label values.
      palette: uint8 [num_classes, 3], RGB colour of each class.
      ignore_label: the value in the *files* that marks an unlabelled pixel, or None where there is none. In
        memory it is always `segjax.core.batch.IGNORE_LABEL`.
      mean, std: of the training images' RGB channels, in units of 0..255, for normalisation.
      splits: names of the splits that exist.
      licence, citation: text to show to a person.
      labels: how the values of the original files became these classes, where that is not one to one.
      things: classes whose objects the source tells apart as `instance`; () where it has none.
      frames: of each of the source's examples, where those are clips; 1 for images.
      extra_splits: those of `splits` that share examples with others of them, as trainaug and train.
    """

    name: str
    class_names: tuple[str, ...]
    palette: np.ndarray
    ignore_label: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    splits: tuple[str, ...]
    licence: str = ""
    citation: str = ""
    things: tuple[int, ...] = ()
    frames: int = 1
    labels: str = "as in the files"
    extra_splits: tuple[str, ...] = ()

    def __post_init__(self):
        if not 2 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"a data set has 2 to {MAX_CLASSES} classes; {self.name!r} has {self.num_classes}"
                f" ({', '.join(self.class_names)})"
            )
        if self.palette.shape != (self.num_classes, 3) or self.palette.dtype != np.uint8:
            raise ValueError(
                f"the palette of {self.name!r} must be uint8 [{self.num_classes}, 3];"
                f" received {self.palette.dtype} {list(self.palette.shape)}"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a JSON file."""
        return dataclasses.asdict(self) | {"palette": self.palette.tolist()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "DatasetInfo":
        """The inverse of `to_dict`, also after it went through JSON."""
        names = ("class_names", "mean", "std", "splits", "things", "extra_splits")
        tuples = {name: tuple(fields.get(name, ())) for name in names}
        return cls(**{**fields, **tuples, "palette": np.array(fields["palette"], np.uint8)})


class Source(Protocol):
    """Random access to decoded examples.

    `source[i]` is `{"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "id": str}`, the label in memory form
    (IGNORE_LABEL for unlabelled pixels). For clips image is [T, H, W, 3] and label [T, H, W]. A set with instances has
    `instance` besides, uint8 [H, W]: a number for each object, NO_INSTANCE where there is none. Pixels of a class of
    `things` with NO_INSTANCE are a group that nobody told apart: labelled for classes, not for objects. Reading the
    same index twice gives the same values, and a source can be pickled, so that worker processes can read it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set. `ids[i]` is the id of `source[i]`, unique in the split."""

    info: DatasetInfo
    split: str
    source: Source
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.source)
