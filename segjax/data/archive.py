"""Data sets that a person downloads: their files, as the archive has them, are written once as ArrayRecord.

A data set's own file says what is where in its archive (`find`) and what its label files mean (`read`). Labels are
stored in memory form, so that a trap in the files (a border of 255, classes from 1) is met in one place.
"""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import ExifTags, Image
from scipy.io import loadmat

from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.images import IMAGE_SUFFIXES, page_bytes, png_bytes, read_image, read_mask, unturned
from segjax.data.source import resized
from segjax.data.tfds_source import load_prepared

Found = Mapping[str, tuple[Any, ...]]
"""id -> (file of the image, or a Page, then what `read` takes: files, or facts from an index file), in the split's
order."""


class Page(NamedTuple):
    """An image or mask that is a page of a TIFF; `number` counts from 0."""

    file: Path
    number: int

    def read_bytes(self) -> bytes:
        """The page as PNG."""
        return page_bytes(self.file, self.number)


@dataclasses.dataclass(frozen=True)
class Archive:
    """How the files of a data set become examples.

    Attributes:
      info: its ignore_label is IGNORE_LABEL, since labels are stored in memory form; with `things` examples have an
        instance map.
      version: of what is stored; belongs up when the same files would give other examples.
      homepage: where a person reads about it.
      instructions: how to get the files and where to put them; ends errors about missing ones.
      find: (root, split) -> Found. Raises FileNotFoundError where the archive's layout is not there.
      counts: split -> the official number of examples; a split that is not named is not checked.
      read: what `find` gave besides the image -> label uint8 [H, W] in memory form, or (label, instance) where the
        info has things, uint8 [H, W] with NO_INSTANCE. By default a mask whose values are the classes.
      folder: where the files lie, if not in a folder of the data set's name: two sets can share their files.
    """

    info: DatasetInfo
    version: str
    homepage: str
    instructions: str
    find: Callable[[Path, str], Found]
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    read: Callable[..., Any] = read_mask
    folder: str = ""


def load_archive(
    archive: Archive,
    data_dir: str | os.PathLike | None,
    split: str,
    manual_dir: str | os.PathLike | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """One split; it is prepared first from files on disk where that was not done yet, alone.

    Args:
      data_dir: TFDS's data_dir; None is TFDS's default (`~/tensorflow_datasets` or `TFDS_DATA_DIR`).
      manual_dir: where the files lie, or a folder in which they lie in one of the data set's name. None takes
        `$SEGJAX_DATA/<name>` if that is there, else TFDS's `<data_dir>/downloads/manual`.
      size: (height, width) to which examples are resized when read; None keeps them.
    Raises:
      FileNotFoundError: the files aren't there; says how to get them.
      ValueError: there is no such split, the files aren't the official split, or one can't be read.
    """
    name = archive.folder or archive.info.name
    if manual_dir is None:
        folder = os.path.join(os.environ["SEGJAX_DATA"], name) if os.environ.get("SEGJAX_DATA") else None
        manual_dir = folder if folder and os.path.isdir(folder) else None
    make_builder = functools.partial(_builder, archive, split, data_dir=data_dir)
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    return resized(load_prepared(make_builder, archive.info, split, download_config), size)


def find_split(archive: Archive, folder: Path, split: str) -> Found:
    """What the files of a split are, looked for in the folder and in `<folder>/<name>`.

    Raises:
      FileNotFoundError: they are in neither, or one of them is missing.
      ValueError: it is not the official number.
    """
    name, problems = archive.info.name, []
    for root in (folder / (archive.folder or name), folder):
        try:
            found = archive.find(root, split)
        except FileNotFoundError as error:
            problems.append(error)
        else:
            break
    else:
        raise FileNotFoundError(
            f"{folder} holds no {name} with split {split!r} ({problems[-1]}).\n{archive.instructions}"
        )
    wanted = archive.counts.get(split, len(found))
    if len(found) != wanted or not found:
        raise ValueError(
            f"split {split!r} of {name} must have its official {wanted or 'images'}; {root} has {len(found)}."
            " Scores on another split can't be compared; use the data set `folder` for your own selection"
        )
    missing = [each for files in found.values() for each in files if isinstance(each, Path) and not each.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files of {name} are missing, the first one is {missing[0]}")
    return found


def _builder(archive: Archive, split: str, **kwargs: Any) -> tfds.core.DatasetBuilder:
    """Of one split, which is a config of its own: it can be prepared where the files of others are not."""
    info = archive.info
    mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png")

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = info.name
        VERSION = tfds.core.Version(archive.version)
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=each) for each in info.splits]
        MANUAL_DOWNLOAD_INSTRUCTIONS = archive.instructions

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{info.name}, split {split}, for semantic segmentation.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": mask,
                        "id": tfds.features.Text(),
                        **({"instance": mask} if info.things else {}),
                    }
                ),
                supervised_keys=("image", "label"),
                homepage=archive.homepage,
                license=info.licence,
                citation=info.citation,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            try:
                folder = Path(dl_manager.manual_dir)
            except AssertionError as error:  # what TFDS raises where the folder is missing
                raise FileNotFoundError(str(error)) from None
            return {split: self._generate_examples(find_split(archive, folder, split))}

        def _generate_examples(self, found: Found) -> Iterator[tuple[int, dict]]:
            for index, (name, (image, *rest)) in enumerate(found.items()):
                yield index, {**encoded_example(archive, image, *rest), "id": name}

    return Builder(config=split, **kwargs)


def encoded_example(archive: Archive, image: Path | Page, *rest: Any) -> dict[str, bytes]:
    """{"image", "label" and maybe "instance": bytes of a PNG, or of the JPEG that the image is}."""
    label, instance = archive.read(*rest), None
    if archive.info.things:
        label, instance = label
        _check_map(image, "instance", instance, label.shape)
    _check_map(image, "label", label, label.shape)
    found = {"image": encoded_image(image, label.shape), "label": png_bytes(label)}
    return found | ({} if instance is None else {"instance": png_bytes(instance)})


def encoded_image(file: Path | Page, size: tuple[int, int]) -> bytes:
    """The file's own bytes if it is a JPEG or grey PNG, else PNG of the same pixels that is decoded faster.

    Some photographs say in their EXIF that they are to be turned, but were labelled as they are stored. The size of the
    label tells; where both ways have it, the label is taken for one of the pixels as they are stored.

    Raises:
      ValueError: image and label differ in size.
    """
    data = file.read_bytes()
    image, as_stored = read_image(data), False
    with Image.open(io.BytesIO(data)) as header:
        kept = (header.format, header.mode) in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "L"))
        turned = header.getexif().get(ExifTags.Base.Orientation, 1) != 1
    if turned:
        stored = unturned(data)
        if stored.shape[:2] == size:
            image, as_stored = stored, True
    if image.shape[:2] != size:
        raise ValueError(
            f"image and label must have one size; (height, width) of {file} is {image.shape[:2]}, of its label {size}"
        )
    if kept and not as_stored:
        return data
    return png_bytes(image)


def _check_map(file: Path | Page, kind: str, array: np.ndarray, size: tuple[int, ...]) -> None:
    if array.dtype != np.uint8 or array.shape != size or array.ndim != 2:
        raise ValueError(f"the {kind} of {file} must be uint8 {list(size)}; it is {array.dtype} {list(array.shape)}")


def looked_up(values: np.ndarray, table: Mapping[int, int], file: Any = "a mask") -> np.ndarray:
    """uint8 [H, W]: each value of the files, 0 or more, by its class, or IGNORE_LABEL.

    Raises:
      ValueError: a value that the table does not have.
    """
    size = 1 + max(255, *table, int(values.max(initial=0)))
    known = np.zeros(size, bool)
    classes = np.full(size, IGNORE_LABEL, np.uint8)
    for value, number in table.items():
        known[value], classes[value] = True, number
    if not known[values].all():
        wrong = sorted(set(np.unique(values[~known[values]]).tolist()))
        raise ValueError(f"{file} must hold {_ranges(table)} only; it holds {wrong[:10]}")
    return classes[values]


def _ranges(values: Iterable[int]) -> str:
    """Such integers in order, like "0..20, 255"; a few in a row one by one."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 3 else ", ".join(map(str, run)) for run in runs)


def numbered_instances(ids: np.ndarray, thing: np.ndarray, file: Any = "an image") -> np.ndarray:
    """uint8 [H, W]: the objects of one image numbered from 0 in the order of their ids, NO_INSTANCE elsewhere.

    Args:
      ids: integers [H, W], the same for the pixels of an object.
      thing: bool [H, W], where there are objects.
    Raises:
      ValueError: more objects than a byte can number.
    """
    numbers, of_pixel = np.unique(ids[thing], return_inverse=True)
    if len(numbers) > NO_INSTANCE:
        raise ValueError(f"{file} must have at most {NO_INSTANCE} objects; it has {len(numbers)}")
    instance = np.full(ids.shape, NO_INSTANCE, np.uint8)
    instance[thing] = of_pixel.ravel()
    return instance


def listed(file: Path) -> list[str]:
    """The names in a split's list, one a line, the first word of each."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    return [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def with_suffix(stem: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Path:
    """The file of this name without suffix; where there is none, the one that it should have been."""
    files = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return next((file for file in files if file.is_file()), files[0])


def first_folder(root: Path, holds: str, places: Iterable[str]) -> Path:
    """The first of some places in root that holds a file or folder of that name: how archives may be unpacked."""
    folders = [root / place for place in places]
    for folder in folders:
        if (folder / holds).exists():
            return folder
    raise FileNotFoundError(f"none of {', '.join(map(str, folders))} holds {holds}")


def read_matlab(file: Path, *names: str) -> np.ndarray:
    """A matrix of a MATLAB file, int64 [H, W], by the variable and the fields of structures that lead to it.

    Raises:
      ValueError: the file can't be read, has no such matrix, or one with other values than integers of 0 or more.
    """
    try:
        value: Any = loadmat(file)
        for name in names:
            value = value[name]
            value = value[0, 0] if value.dtype == object else value
    except Exception as error:  # whatever SciPy raises for a file that isn't one
        raise ValueError(f"{file} must be a MATLAB file with {'.'.join(names)}; reading it: {error}") from error
    if value.ndim != 2 or value.min(initial=0) < 0 or not np.array_equal(value, value.astype(np.int64)):
        raise ValueError(f"{'.'.join(names)} of {file} must be a matrix of integers of 0 or more; it is not")
    return value.astype(np.int64)
