"""Files of images that are read and written: finding them, and names for the results that overwrite nothing."""

import collections
import glob
from pathlib import Path

from segjax.data.images import IMAGE_SUFFIXES


def find_images(pattern: str) -> tuple[list[Path], Path]:
    """(files in order, folder below which their names are kept) for a file, a folder or a glob.

    Raises:
      ValueError: nothing fits.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    else:
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        path = Path(*_common_parts([file.parent for file in files])) if files else path
    if not files:
        raise ValueError(
            f"--input must be an image, a folder of images or a glob; {pattern!r} gives none"
            f" (suffixes looked for in a folder: {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return files, path


def _common_parts(folders: list[Path]) -> tuple[str, ...]:
    common = folders[0].parts
    for folder in folders:
        length = next((i for i, (a, b) in enumerate(zip(common, folder.parts, strict=False)) if a != b), None)
        common = common[: min(len(common), len(folder.parts)) if length is None else length]
    return common


def output_names(files: list[Path], top: Path) -> list[Path]:
    """The names of the results without suffix, one a file: `sub/a`, or `sub/a_jpg` where `sub/a.png` is there too."""
    plain = [file.relative_to(top).with_suffix("") for file in files]
    times = collections.Counter(plain)
    return [
        name if times[name] == 1 else name.with_name(f"{name.name}_{file.suffix[1:]}")
        for file, name in zip(files, plain, strict=True)
    ]


def check_targets(files: list[Path], targets: list[Path], ends: tuple[str, ...]) -> None:
    """Raise ValueError where a result, a target with one of the ends, would overwrite an input or another result."""
    inputs = {file.resolve() for file in files}
    results = [target.with_name(target.name + end).resolve() for target in targets for end in ends]
    twice = [path for path, times in collections.Counter(results).items() if times > 1]
    if clash := sorted(inputs.intersection(results)) + twice:
        raise ValueError(
            "each result must be a new file; these are inputs, or results of two inputs: "
            + ", ".join(map(str, clash[:5]))
            + ". Give another --output folder, or rename the images"
        )
