"""Label maps and overlays of images of any size and mode.

  python -m segjax.predict --workdir runs/x --input 'photos/*.jpg' --output out
  python -m segjax.predict --workdir runs/x --input drive.mp4 --output out
  python -m segjax.predict --workdir runs/x --input large.tif --output out --size native --spatial 8

For each image there are two PNGs: <name>.png, whose pixel values are classes and whose palette is the data set's,
and <name>_overlay.png with a legend. With `--samples N` the classes are those of the mean of N predictions with
dropout, and there are <name>_entropy.png and <name>_mutual_information.png (`segjax.evaluation.monte_carlo`) besides:
16 bits of grey, where 65535 is ln(number of classes) nats, the most that either can be. With `--attention ROW,COLUMN`
there is <name>_attention.png: each gate of the network, and whence each of its attentions takes what it adds to that
pixel, over the image. A file that can't be read is named and passed over; the exit status is 1 then.

A video, or with `--clip` a folder of frames, is read frame by frame, in memory that does not grow with it, and becomes
<name>_overlay.mp4; a recurrent network keeps its states from frame to frame. With `--clip` each frame has its label map
<name>/<frame>.png besides.
"""

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags
from PIL import Image
from rich.progress import Progress, SpinnerColumn, TextColumn, track

from segjax import build, build_evaluation
from segjax.core import pictures, sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import load_workdir_config
from segjax.core.logger import duration
from segjax.core.main import run
from segjax.core.softmax import not_finite
from segjax.core.validation import validate
from segjax.data import video
from segjax.data.augment.device_transforms import normalise
from segjax.data.augment.transforms import resize_image
from segjax.data.dataset import DatasetInfo
from segjax.data.image_files import check_targets, find_images, output_names
from segjax.data.images import read_image
from segjax.data.pipeline import round_up
from segjax.evaluation.inference import resize
from segjax.models.conv_rnn import ConvRNN
from segjax.models.remember import empty_memory
from segjax.training.checkpoint import CheckpointError

ENDS = (".png", "_overlay.png")
UNCERTAINTY_ENDS = ("_entropy.png", "_mutual_information.png")
ATTENTION_END = "_attention.png"
NUMBERS = re.compile(r"(\d+)")


def main() -> None:
    """From flags to PNGs, in the order in which it happens."""
    config = CONFIG.value
    if config is None:
        if WORKDIR.value:
            load_workdir_config(WORKDIR.value)  # says what is not there
        raise ValueError("give --workdir DIR of a training, or --config FILE with --config.init.path=WEIGHTS")
    validate(config)
    output = Path(OUTPUT.value).expanduser()
    clip = CLIP.value or Path(INPUT.value).suffix.lower() in video.VIDEO_SUFFIXES
    if clip and (SAMPLES.value or ATTENTION.value):
        raise ValueError("--samples and --attention are for images; give frames of a clip as images, without --clip")
    if (clip or ATTENTION.value) and SPATIAL.value > 1:
        raise ValueError("--spatial splits single images, without --attention and --clip; give the frames as images")
    mesh = sharding.make_mesh(1, 1, SPATIAL.value)
    model, info, variables = load_model(config, mesh)
    if clip:
        predict_clip(config, model, info, variables, Path(INPUT.value).expanduser(), output)
    else:
        predict_images(config, model, info, variables, output, mesh)


def load_model(config: ConfigDict, mesh: Mesh) -> tuple[nn.Module, DatasetInfo, Any]:
    """(model, facts of its data set, variables on the devices of the mesh), from --workdir or config.init."""
    if WORKDIR.value:
        info = build.saved_info(WORKDIR.value)
        model = build.model(config, info)
        variables = build.restored_variables(WORKDIR.value, mesh, CHECKPOINT.value)
    elif config.init.path:
        info = build.datasets(config, [config.data.split])[config.data.split].info
        model = build.model(config, info)
        variables, report = build.foreign_variables(config, model, mesh)
        print(report.summary())
    else:
        raise ValueError("--config needs weights: give --config.init.path=FILE, or --workdir DIR of a training")
    return model, info, jax.device_put(variables, sharding.replicated(mesh))


def predict_images(
    config: ConfigDict, model: nn.Module, info: DatasetInfo, variables: Any, output: Path, mesh: Mesh
) -> None:
    """Label maps and overlays of all images of --input."""
    files, top = find_images(INPUT.value)
    names = output_names(files, top)
    samples = SAMPLES.value
    pixel = parse_pixel(ATTENTION.value)
    ends = ENDS + UNCERTAINTY_ENDS * (samples > 0) + (ATTENTION_END,) * (pixel is not None)
    check_targets(files, [output / name for name in names], ends)
    protocol = build_evaluation.protocol(config, info, config.evaluation.split)
    seen = build.preprocessing(config, info)
    if samples and protocol.crf is not None:
        raise ValueError("give one of --samples and config.evaluation.crf: the CRF's marginals have no samples")
    if samples:
        monte_carlo, key = build_evaluation.uncertainty_predictor(model, protocol, samples), jax.random.key(config.seed)
        predict = lambda variables, image: monte_carlo(variables, image, key)  # noqa: E731
    else:
        once = build_evaluation.predictor(model, protocol, seen)
        predict = lambda variables, image: (once(variables, image),)  # noqa: E731
    size = parse_size(SIZE.value, config.data.size)
    maps = build_maps(predict, size_multiple=protocol.size_multiple, size=size, mesh=mesh, **seen)
    draw = None
    if pixel is not None:
        view = build_evaluation.attention_viewer(model)
        jax.eval_shape(view, variables, jnp.zeros((1, 64, 64, 3)), jnp.zeros(2))  # a model without attention ends here
        draw = build_attention_sheet(view, size=size, **seen)
    bad = []
    for path, name in track(list(zip(files, names, strict=True)), description="predicting"):
        try:
            image = read_image(path)
            label, *uncertainty = maps(variables, image)
            sheet = None if draw is None else draw(variables, image, pixel)
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            bad.append(path)
            print(f"passed over {path}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(target.with_name(f"{target.name}.png"), label, info.palette)
        for end, nats in zip(UNCERTAINTY_ENDS, uncertainty, strict=False):
            write_nats(target.with_name(target.name + end), nats, info.num_classes)
        if sheet is not None:
            _save(target.with_name(target.name + ATTENTION_END), Image.fromarray(sheet))
        present = np.bincount(label.ravel(), minlength=info.num_classes)
        mixed = pictures.overlay(image, label, info.palette)
        legend = pictures.legend(info.class_names, info.palette, present, width=max(mixed.shape[1], 320))
        _save(target.with_name(f"{target.name}_overlay.png"), Image.fromarray(pictures.grid([mixed, legend])))
    print(f"{len(files) - len(bad)} of {len(files)} images are predicted; they are in {output}")
    if bad:
        sys.exit(f"{len(bad)} could not be predicted: " + ", ".join(str(path) for path in bad[:20]))


def predict_clip(
    config: ConfigDict, model: nn.Module, info: DatasetInfo, variables: Any, source: Path, output: Path
) -> None:
    """An overlay of a video or of a folder of frames, one frame after the other."""
    protocol, seen = build_evaluation.protocol(config, info, config.evaluation.split), build.preprocessing(config, info)
    if isinstance(model, ConvRNN):
        if model.bidirectional:
            raise ValueError("a bidirectional network needs whole clips, and a video comes frame by frame; evaluate it")
        predict = build_evaluation.clip_predictor(model, protocol, seen)
        begin = functools.partial(empty_memory, model)
    else:
        once, begin = build_evaluation.predictor(model, protocol, seen), lambda variables, image: {}
        predict = lambda variables, states, image, reset: (once(variables, image[:, 0]), states)  # noqa: E731
    step = build_stream(predict, begin, size=parse_size(SIZE.value, config.data.size), **seen)
    frames = video.frame_files(source) if source.is_dir() else None
    name = source.name if frames else source.stem
    target = output / f"{name}_overlay.mp4"
    if frames:
        check_targets(frames, [output / name / frame.stem for frame in frames], (".png",))
        (output / name).mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    columns = [SpinnerColumn(), TextColumn("frame {task.completed:.0f}  {task.fields[rate]:.1f} frames/s")]
    began, count = time.monotonic(), 0
    with video.VideoWriter(target, video.frame_rate(source)) as writer, Progress(*columns, transient=True) as progress:
        task = progress.add_task("predicting", total=None, rate=0.0)
        for image, label in stream(step, variables, video.read_video(source)):
            if frames:
                write_label_map(output / name / f"{frames[count].stem}.png", label, info.palette)
            writer.write(pictures.overlay(image, label, info.palette))
            count += 1
            progress.update(task, completed=count, rate=count / (time.monotonic() - began))
    seconds = time.monotonic() - began
    print(f"{count} frames in {duration(seconds)}, {count / seconds:.1f} frames/s with reading and writing; {target}")


def build_stream(
    predict: Callable,
    begin: Callable[[Any, jax.Array], Any],
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str = "rgb",
    size: tuple[int, int] | None = None,
) -> Callable[[Any, Any, np.ndarray], tuple[jax.Array, Any]]:
    """Build `step(variables, states, image uint8 [H, W, 3]) -> (label uint8 [H, W], states)`; states are None at first.

    predict and begin are those of `segjax.build_evaluation.clip_predictor` and of `Evaluator`.
    """

    def prepared(image):
        return normalise(image, mean=mean, std=std, channel_order=channel_order)[None, None]

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=1)
    def next_label(variables, states, image, native):
        probabilities, states = predict(variables, states, prepared(image), jnp.zeros(1, bool))
        return most_likely(resize(probabilities, native))[0], states

    def step(variables, states, image):
        native = image.shape[:2]
        image = resize_image(image, size) if size else image
        states = begin(variables, prepared(image)) if states is None else states
        return next_label(variables, states, image, native)

    return step


def stream(step: Callable, variables: Any, frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image, label uint8 [H, W]) of each frame; the next frame is read while the device works on this one."""
    states, shape, waiting = None, None, None
    for number, image in enumerate(frames):
        if shape not in (None, image.shape):
            raise ValueError(
                f"the frames of a clip must have one size; frame {number} has {image.shape[:2]}, the others {shape[:2]}"
            )
        shape = image.shape
        label, states = step(variables, states, image)
        if waiting is not None:
            yield waiting[0], checked(np.asarray(waiting[1]), f"of frame {number - 1} ")
        waiting = image, label
    if waiting is not None:
        yield waiting[0], checked(np.asarray(waiting[1]), "of the last frame ")


def most_likely(probabilities: jax.Array) -> jax.Array:
    """uint8 [N, H, W] of [N, H, W, C]: the class, or IGNORE_LABEL where the probabilities are not finite."""
    finite = jnp.isfinite(probabilities).all(-1)
    return jnp.where(finite, probabilities.argmax(-1), IGNORE_LABEL).astype(jnp.uint8)


def checked(label: np.ndarray, what: str = "") -> np.ndarray:
    """A label map of `most_likely`. Raises ValueError where the network did not give finite probabilities."""
    wrong = int((label == IGNORE_LABEL).sum())
    if wrong:
        raise not_finite(f"{what}{wrong} of {label.size} pixels have none")
    return label


def parse_size(text: str | None, trained: tuple[int, int] = (0, 0)) -> tuple[int, int] | None:
    """`360x480` -> (360, 480), `native` -> None; without text the size of the training images, where one is set."""
    if text is None:
        return tuple(trained) if any(trained) else None
    if text == "native":
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--size must be HEIGHTxWIDTH in pixels, e.g. 360x480, or native; received {text!r}")
    return int(parts[0]), int(parts[1])


def parse_pixel(text: str | None) -> tuple[int, int] | None:
    """`120,200` -> (120, 200): row and column."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--attention must be ROW,COLUMN of a pixel, e.g. 120,200; received {text!r}")
    return int(parts[0]), int(parts[1])


def build_attention_sheet(
    view: Callable,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str = "rgb",
    size: tuple[int, int] | None = None,
) -> Callable[[Any, np.ndarray, tuple[int, int]], np.ndarray]:
    """Build `sheet(variables, image uint8 [H, W, 3], (row, column)) -> uint8 [H', W', 3]`, four maps to a row.

    view is `segjax.build_evaluation.attention_viewer`'s; the other arguments are those of `build_maps`.
    """

    @jax.jit
    def seen_from(variables, image, place):
        return view(variables, normalise(image, mean=mean, std=std, channel_order=channel_order)[None], place)

    def sheet(variables, image, pixel):
        if not all(0 <= at < length for at, length in zip(pixel, image.shape, strict=False)):
            raise ValueError(f"--attention must be a pixel of the image, which has {image.shape[:2]}; received {pixel}")
        place = (np.array(pixel, np.float32) + 0.5) / image.shape[:2]
        found = jax.device_get(seen_from(variables, resize_image(image, size) if size else image, place))
        names = sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in NUMBERS.split(name)])
        panels = [pictures.heat(image, found[name], pixel) for name in names]
        rows = [slice(start, start + 4) for start in range(0, len(names), 4)]
        return pictures.grid([pictures.panel_row(panels[row], names[row]) for row in rows])

    return sheet


def build_maps(
    predict: Callable,
    mean: Sequence[float],
    std: Sequence[float],
    size_multiple: int,
    size: tuple[int, int] | None = None,
    channel_order: str = "rgb",
    mesh: Mesh | None = None,
) -> Callable[..., list[np.ndarray]]:
    """Build `maps(variables, image uint8 [H, W, 3])`; the network is compiled for each padded size, or once for `size`.

    `predict(variables, normalised image)` gives (probabilities [N, H, W, C], further maps [N, H, W], ...), and `maps`
    gives [label uint8 [H, W], further maps float32 [H, W], ...]. mean, std and channel_order are those of
    `segjax.data.augment.transforms.normalise`. Over a mesh with a `spatial` axis the rows of the image are split, with
    the result of one device. It raises ValueError where the network's probabilities are not finite.
    """

    mesh = sharding.make_mesh(1, 1) if mesh is None else mesh
    prepared = functools.partial(normalise, mean=mean, std=std, channel_order=channel_order)

    def compiled(function, **options):
        return jax.jit(sharding.for_mesh(function, mesh), **options)

    def put(image):
        return sharding.put_batch(mesh, sharding.fill_rows(mesh, {"image": image[None]}))

    def labelled(probabilities, *others):
        found = [most_likely(probabilities), *others]
        return [sharding.fill_rows(mesh, {"label": each})["label"] for each in found]

    @functools.partial(compiled, static_argnums=2)
    def seen_maps(variables, batch, height):
        return predict(variables, prepared(sharding.cut_rows(batch, height)["image"]))

    @functools.partial(compiled, static_argnums=1, out_shardings=sharding.map_sharding(mesh))
    def resized_maps(found, native):
        probabilities, *others = found
        return labelled(resize(probabilities, native), *(resize(other[..., None], native)[..., 0] for other in others))

    @functools.partial(compiled, static_argnums=2, out_shardings=sharding.map_sharding(mesh))
    def padded_maps(variables, batch, height, native):
        image = sharding.cut_rows(batch, height)["image"]
        rows, columns = (jnp.arange(length) < inside for length, inside in zip(image.shape[1:3], native, strict=True))
        image = jnp.where((rows[:, None] & columns)[..., None], prepared(image), 0.0)
        return labelled(*predict(variables, image))

    def maps(variables, image):
        height, width = image.shape[:2]
        if size is not None:
            found = resized_maps(seen_maps(variables, put(resize_image(image, size)), size[0]), (height, width))
        else:
            rows, columns = round_up((height, width), size_multiple)
            padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)))
            found = padded_maps(variables, put(padded), rows, np.array((height, width), np.int32))
        label, *others = (array[0, :height, :width] for array in jax.device_get(found))
        return [checked(label), *others]

    return maps


def write_label_map(path: Path, label: np.ndarray, palette: np.ndarray) -> None:
    """A palette PNG: pixel value k is class k, shown in its colour."""
    image = Image.fromarray(label, mode="P")
    image.putpalette(palette.ravel().tolist())
    _save(path, image)


def write_nats(path: Path, nats: np.ndarray, num_classes: int) -> None:
    """float32 [H, W] from 0 to ln(num_classes) as a PNG with 16 bits of grey from 0 to 65535."""
    scaled = np.clip(nats / np.log(num_classes), 0, 1) * 65535
    _save(path, Image.fromarray(np.round(scaled).astype(np.uint16)))


def _save(path: Path, image: Image.Image) -> None:
    """So that where the process is killed no half of a picture stays under its name."""
    begun = path.with_name(f".{path.name}.begun")
    image.save(begun, format="PNG")
    begun.replace(path)


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; the workdir's own where it is left out.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training, for its config and checkpoint.")
    CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Of the workdir: last, best (by validation mIoU) or a step.")
    INPUT = flags.DEFINE_string(
        "input", None, "An image, a folder (with its subfolders), a glob in quotes, or a video."
    )
    CLIP = flags.DEFINE_bool(
        "clip", False, "The folder --input holds the frames of one clip, in the order of their names."
    )
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the label maps and overlays.")
    SIZE = flags.DEFINE_string(
        "size",
        None,
        "HEIGHTxWIDTH at which the network sees the images, or native; default: as in its training. Label maps keep"
        " each image's own size.",
    )
    SAMPLES = flags.DEFINE_integer(
        "samples",
        0,
        "How many predictions with dropout to average, e.g. 20; also writes maps of the uncertainty, _entropy.png and"
        " _mutual_information.png. The model must have dropout. 0, the default: one prediction without dropout.",
        lower_bound=0,
    )
    SPATIAL = flags.DEFINE_integer(
        "spatial",
        1,
        "Over how many devices the rows of each image are split, for images that one device cannot hold.",
        lower_bound=1,
    )
    ATTENTION = flags.DEFINE_string(
        "attention",
        None,
        "ROW,COLUMN of a pixel: also write _attention.png, the maps of a network with attention: each gate, and the"
        " weights with which this pixel takes from the others.",
    )
    run(main, required=("input", "output"), expected=(CheckpointError, ImportError))
