"""A data set and a model's probabilities -> scores, pictures, and the file that says how both were made."""

import concurrent.futures
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from rich.progress import track

from segjax.core import charts, pictures, sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.core.logger import read_json, write_json
from segjax.core.softmax import not_finite
from segjax.evaluation import metrics, video
from segjax.evaluation.inference import Apply
from segjax.evaluation.protocol import Protocol
from segjax.evaluation.score import Score, finite_mean

CLASS_COUNTS = ("intersection", "labelled", "predicted")


class Totals(NamedTuple):
    """What is summed on the device over a split: O(classes^2) numbers, whatever the number of pixels."""

    confusion: metrics.ExactCounts
    calibration: metrics.CalibrationState
    counted: tuple[metrics.ExactCounts | None, ...] = ()  # of each `Score` that is summed


IN_FLIGHT = 2
"""Batches that the host may be ahead of the device."""


class Found(NamedTuple):
    """What a batch gives for each of its images, by name or, of the `Score`s, by their order; None where there is none.

    `counts` is int32 [M, 3, C], see `class_counts`; `finite` bool [M], whether all probabilities are. `images` is what
    is left to be done on the host, and stays on the devices that have it until it is fetched.
    """

    built_in: dict[str, jax.Array]
    counts: jax.Array
    finite: jax.Array
    kept: tuple[Any, ...]
    images: tuple[Any, ...]


class Carried(NamedTuple):
    """What goes from one batch of clips to the next: the network's states, and the last prediction [N, H, W]."""

    states: Any
    prediction: jax.Array | None


class Evaluator:
    """Scores one split by one protocol; called with variables as often as wanted, compiled once for each size.

    After a call, `panels` holds pictures (image | label | prediction | error, uint8 [H, W, 3]) of some examples
    that are evenly spread over the split, by example id. Every process makes the same calls.
    """

    def __init__(
        self,
        dataset: Any,
        batches: Callable[[], Iterable[Mapping[str, np.ndarray]]],
        predict: Apply,
        protocol: Protocol,
        mesh: Mesh,
        *,
        begin: Callable[[Any, jax.Array], Any] | None = None,
        images: int = 4,
        scores: Sequence[Score] = (),
        further: Callable[[Any], Mapping[str, Any]] | None = None,
        progress: bool = False,
    ):
        """
        Args:
          dataset: a `segjax.data.dataset.Dataset`, for its class table, ids, and the images to draw.
          batches: `batches()` gives this process's part of every batch of the split, as
            `segjax.data.pipeline.evaluation_batches` makes them, or `segjax.data.clips.evaluation_clip_batches`.
          predict: (variables, image [N, H, W, 3]) -> probabilities [N, H, W, C]; for clips (variables, states,
            image [N, T, H, W, 3], reset [N]) -> (probabilities [N T, H, W, C], states).
          begin: for clips, (variables, image) -> the states before the first frame.
          images: how many pictures to draw.
          scores: what to score beside the built-in scores; the protocol must then leave the images unpadded.
          further: variables -> scores of another kind, which are added to ours.
          progress: show a bar.
        """
        if scores and protocol.size_multiple != 1:
            raise ValueError(
                "scores at the images' own sizes need a protocol that pads none, size_multiple=1; received"
                f" {protocol.size_multiple}"
            )
        if len(dataset) == 0:
            raise ValueError(f"split {dataset.split!r} of {dataset.info.name!r} must have examples; it has none")
        self.dataset, self.protocol = dataset, protocol
        self._batches, self._mesh, self._progress = batches, mesh, progress
        self._begin, self._scores, self._further = begin, tuple(scores), further
        self._drawn = {int(index) for index in np.linspace(0, len(dataset) - 1, min(images, len(dataset)))}
        self.panels: dict[str, np.ndarray] = {}
        batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        step = build_eval_step(predict if begin else _by_images(predict), dataset.info.num_classes, self._scores)

        def of_batch(variables, batch, totals, carried, height):
            totals, found, prediction, carried = step(variables, sharding.cut_rows(batch, height), totals, carried)
            filled = sharding.fill_rows(mesh, {"label": prediction})["label"]
            return totals, found, filled, carried

        self._step = jax.jit(
            sharding.for_mesh(of_batch, mesh),
            in_shardings=(None, None, whole, batch),
            out_shardings=(whole, Found(whole, whole, whole, whole, batch), sharding.map_sharding(mesh), batch),
            static_argnums=4,
        )

    def __call__(self, variables: Any) -> dict[str, Any]:
        """The scores of `segjax.evaluation.metrics.scores`, `per_image_mIoU`, `calibration_error`, `confusion`.

        And `per_image_counts`, int32 [images, 3, C]: `class_counts` of each image or frame in the order of the split;
        `calibration_bins` of `metrics.calibration_bins`; for clips `temporal_consistency`, the mean over the frames
        that have one before them; and what the `Score`s conclude.

        Raises:
          ValueError: the network's probabilities of some images are not finite.
        """
        totals = jax.device_put(self._empty_totals(), sharding.replicated(self._mesh))
        batches = self._batches()
        if self._progress and sharding.is_main_process():
            batches = track(batches, "evaluating")
        every_found, predictions, every_index, carried = [], [], [], Carried({}, None)
        with _HostPart(self._scores) as host:
            for local in batches:
                batch = sharding.put_batch(self._mesh, sharding.fill_rows(self._mesh, local))
                height = local["label"].shape[-2]
                if self._begin:
                    carried = self._continued(carried, variables, sharding.cut_rows(batch, height))
                totals, found, prediction, carried = self._step(variables, batch, totals, carried, height)
                # Every process sees the whole index, so that all of them fetch a batch or none does.
                indices = np.asarray(sharding.fetch(batch["index"])).reshape(-1)
                every_index.append(indices)
                every_found.append(found._replace(images=()))
                if len(every_found) > IN_FLIGHT:  # else all that is read faster than it is computed would wait there
                    jax.block_until_ready(every_found[-1 - IN_FLIGHT].counts)
                host.take(found.images, indices)
                if self._drawn.intersection(indices.tolist()):
                    predictions.append((indices, sharding.fetch(prediction)))
            finished = host.results()
        self._draw(predictions)
        confusion = metrics.counts(totals.confusion)
        built_in, per_image, finite, kept = _in_order(every_found, np.concatenate(every_index))
        if not finite.all():
            wrong = [self.dataset.ids[index] for index in np.flatnonzero(~finite)]
            raise not_finite(
                f"those of {len(wrong)} of the {len(finite)} images of {self.dataset.split!r} are not, the first:"
                f" {', '.join(wrong[:5])}"
            )
        return {
            **metrics.scores(confusion),
            **{name: finite_mean(values) for name, values in built_in.items()},
            **self._concluded(totals.counted, kept, finished),
            **(self._further(variables) if self._further else {}),
            "calibration_error": metrics.expected_calibration_error(totals.calibration),
            "calibration_bins": metrics.calibration_bins(totals.calibration),
            "confusion": confusion,
            "per_image_counts": per_image,
        }

    def _empty_totals(self):
        num_classes = self.dataset.info.num_classes
        counted = tuple(metrics.init_counts(score.counts) if score.counts else None for score in self._scores)
        return Totals(metrics.init_counts((num_classes, num_classes)), metrics.init_calibration(), counted)

    def _concluded(self, counted, kept, finished):
        found = {}
        for number, score in enumerate(self._scores):
            if score.counts:
                found |= score.conclude(metrics.counts(counted[number]))
            else:
                found |= score.conclude(finished[number] if score.each else kept[number])
        return found

    def _continued(self, carried, variables, batch):
        """What the batch before left, or an empty start where clips of another size begin."""
        shape = batch["label"].shape[:1] + batch["label"].shape[2:]
        if carried.prediction is not None and carried.prediction.shape == shape:
            return carried
        start = Carried(self._begin(variables, batch["image"]), jnp.zeros(shape, jnp.uint8))
        return jax.device_put(start, sharding.batch_sharding(self._mesh))

    def scalars(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The scores that are one number."""
        return {name: value for name, value in scores.items() if np.ndim(value) == 0}

    def check_folder(self, folder: str | Path) -> None:
        """Raise ValueError where `write` would put its scores in the place of those of other images or settings."""
        path = Path(folder) / f"evaluation-{self.protocol.name}.json"
        there, ours = read_json(path).get("protocol", {}), json.loads(json.dumps(self.protocol.to_dict()))
        differing = [name for name in there if name in ours and there[name] != ours[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path} holds scores by another protocol: its {name} is {there[name]!r}, here {ours[name]!r}. Give"
                " --output=DIR for these scores"
            )

    def write(self, folder: str | Path, scores: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> Path:
        """Write the last call's scores and pictures. Returns the path of the first of these files:

        `evaluation-<protocol>.json`, with the scores of the classes by their names; `confusion-<protocol>.png`, the
        share of each label's pixels that got each prediction; `reliability-<protocol>.png`; `predictions/<id>.png`;
        and `per_image-<protocol>.npz`: ids, str [N], and int32 [N, C] pixels of each image, `intersection` (label and
        prediction are the class), `labelled` and `predicted` (those of them that have a label), from which the scores
        of any choice of images follow exactly.
        """
        folder = Path(folder)
        names = self.dataset.info.class_names
        path = folder / f"evaluation-{self.protocol.name}.json"
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            {
                "protocol": self.protocol.to_dict(),
                "scores": self.scalars(scores),
                "per_class": {
                    kind: dict(zip(names, values.tolist(), strict=True))
                    for kind, values in scores.items()
                    if np.ndim(values) == 1
                },
                "confusion": {"rows_are_labels": True, "classes": names, "pixels": scores["confusion"]},
                "calibration": dict(
                    zip(("pixels", "accuracy", "confidence"), scores["calibration_bins"].tolist(), strict=True)
                ),
                "images": len(self.dataset),
                **(facts or {}),
            },
        )
        counts = dict(zip(CLASS_COUNTS, scores["per_image_counts"].swapaxes(0, 1), strict=True))
        begun = folder / f".per_image-{self.protocol.name}.begun.npz"
        np.savez_compressed(begun, ids=np.array(self.dataset.ids), **counts)
        begun.replace(folder / f"per_image-{self.protocol.name}.npz")
        charts.draw_confusion(folder / f"confusion-{self.protocol.name}.png", scores["confusion"], names)
        charts.draw_reliability(folder / f"reliability-{self.protocol.name}.png", *scores["calibration_bins"])
        for name, panel in self.panels.items():
            Image.fromarray(panel).save(folder / "predictions" / f"{name.replace('/', '_')}.png")
        return path

    def _draw(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Pictures from the images as they are in the data set, not from the normalised ones."""
        info = self.dataset.info
        self.panels = {}
        for indices, predictions in batches:
            for index, prediction in zip(indices.tolist(), predictions, strict=True):
                if index in self._drawn:
                    example = self.dataset.source[index]
                    height, width = example["label"].shape
                    self.panels[self.dataset.ids[index]] = prediction_panel(
                        example["image"], example["label"], prediction[:height, :width], info.palette
                    )


class _HostPart:
    """The part of the scores that is computed on the host: in threads, while the device goes on with the next batch."""

    def __init__(self, scores: Sequence[Score]):
        self._each = {number: score.each for number, score in enumerate(scores) if score.each}
        self._found: dict[int, list] = {number: [] for number in self._each}
        self._last: list[concurrent.futures.Future] = []

    def __enter__(self):
        self._pool = concurrent.futures.ThreadPoolExecutor()
        return self

    def __exit__(self, *error):
        self._pool.shutdown(cancel_futures=True)

    def take(self, images: tuple[Any, ...], indices: np.ndarray) -> None:
        """Begin with a batch, of all processes. Waits for the one before, so that images of two at most are kept."""
        if not self._each:
            return
        images = sharding.fetch(images)
        concurrent.futures.wait(self._last)
        self._last = []
        for number, each in self._each.items():
            arrays = jax.tree.leaves(images[number])
            for row in np.flatnonzero(indices >= 0):
                self._last.append(self._pool.submit(each, *(array[row] for array in arrays)))
                self._found[number].append((indices[row], self._last[-1]))

    def results(self) -> dict[int, np.ndarray]:
        """Of each score by its number: [images, ...] in the order of the split. What went wrong is raised here."""
        return {
            number: np.stack([future.result() for _, future in sorted(found, key=lambda pair: pair[0])])
            for number, found in self._found.items()
        }


def _in_order(every_found: list[Found], indices: np.ndarray) -> tuple[dict, np.ndarray, np.ndarray, tuple]:
    """`Found`, but for its images, of all images in the order of the split, without the rows that fill a batch."""
    inside = np.flatnonzero(indices >= 0)
    order = inside[np.argsort(indices[inside])]
    found = jax.device_get([(found.built_in, found.counts, found.finite, found.kept) for found in every_found])
    return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *found)


def _by_images(predict: Apply) -> Callable:
    """A predictor of single images in the form of one of clips, without states."""
    return lambda variables, states, image, reset: (predict(variables, image), states)


def build_eval_step(predict: Callable, num_classes: int, scores: Sequence[Score] = ()) -> Callable:
    """(variables, batch, totals, carried) -> (totals, Found, prediction uint8, carried).

    predict is (variables, states, image, reset) -> (probabilities [M, H, W, C], states), M = N for images and N T for
    the frames of clips. What is found has M rows; the prediction is [M, H, W].
    """

    def eval_step(variables, batch, totals: Totals, carried: Carried):
        probabilities, states = predict(variables, carried.states, batch["image"], batch.get("reset"))
        prediction = probabilities.argmax(-1).astype(jnp.uint8)
        label = batch["label"].reshape(prediction.shape)
        per_image = metrics.per_image_confusion(prediction, label, num_classes)
        measured = [score.measure(probabilities, prediction, label) for score in scores]
        totals = Totals(
            metrics.add_counts(totals.confusion, per_image.sum(0)),
            metrics.add_calibration(totals.calibration, probabilities.max(-1), prediction, label),
            tuple(
                metrics.add_counts(before, values.sum(0)) if score.counts else None
                for score, before, values in zip(scores, totals.counted, measured, strict=True)
            ),
        )
        found = Found(
            {"per_image_mIoU": per_image_miou(per_image)},
            class_counts(per_image),
            jnp.isfinite(probabilities).all((1, 2, 3)),
            tuple(None if score.counts or score.each else of for score, of in zip(scores, measured, strict=True)),
            tuple(of if score.each else None for score, of in zip(scores, measured, strict=True)),
        )
        if "reset" not in batch:
            return totals, found, prediction, carried
        clips = prediction.reshape(batch["label"].shape)
        before = jnp.concatenate([carried.prediction[:, None], clips[:, :-1]], 1).reshape(prediction.shape)
        follows = (batch["index"] >= 0).at[:, 0].min(~batch["reset"]).reshape(-1)
        found.built_in["temporal_consistency"] = video.temporal_consistency(prediction, before, follows, num_classes)
        return totals, found, prediction, Carried(states, clips[:, -1])

    return eval_step


def prediction_panel(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """image | label | prediction | error side by side, uint8 [H, W, 3]: wrong pixels red, unlabelled ones grey."""
    error = np.full(image.shape, 255, np.uint8)
    error[label != prediction] = (214, 39, 40)
    error[label == IGNORE_LABEL] = (150, 150, 150)
    panels = [image, pictures.colourise(label, palette), pictures.colourise(prediction, palette), error]
    return pictures.panel_row(panels, ["image", "label", "prediction", "error"])


def class_counts(confusion: jax.Array) -> jax.Array:
    """int32 [N, C, C] -> int32 [N, 3, C] in the order of CLASS_COUNTS: what IoU, Dice and accuracy are made of."""
    return jnp.stack([jnp.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)], 1)


def per_image_miou(confusion: jax.Array) -> jax.Array:
    """int32 [N, C, C] -> float32 [N]: each image's mIoU over its own classes; NaN where no pixel is labelled."""
    hit = jnp.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(1) + confusion.sum(2) - hit
    present = union > 0
    iou = jnp.where(present, hit / jnp.maximum(union, 1), 0.0)
    return iou.sum(1) / present.sum(1)


def score_table(scores: Mapping[str, Any], class_names: tuple[str, ...], protocol: Protocol) -> str:
    """IoU per class and the means, as text: in percent, distances in pixels; a class that is nowhere has a dash."""

    def percent(value: float) -> str:
        return "     -" if np.isnan(value) else f"{100 * value:6.2f}"

    width = max(18, *map(len, class_names))
    lines = [
        f"{protocol.dataset}, {protocol.split} ({protocol.name})",
        f"{'class':<{width}}    IoU  accuracy",
    ]
    for name, iou, accuracy in zip(class_names, scores["iou"], scores["accuracy"], strict=True):
        lines.append(f"{name:<{width}} {percent(iou)}    {percent(accuracy)}")
    lines.append("-" * (width + 17))
    for name, key in (
        ("mIoU", "mIoU"),
        ("pixel accuracy", "pixel_accuracy"),
        ("mean accuracy", "mean_accuracy"),
        ("frequency w. IoU", "frequency_weighted_iou"),
        ("mean Dice", "mean_dice"),
        ("per-image mIoU", "per_image_mIoU"),
        ("boundary F1", "boundary_f1"),
        ("b. F1 of classes", "class_boundary_f1"),
        ("boundary mIoU", "boundary_mIoU"),
        *((key.replace("_", " ") + " px", key) for key in scores if key.startswith("trimap_")),
        ("temporal consist.", "temporal_consistency"),
        ("DAVIS J&F", "J&F"),
        ("DAVIS J", "J_mean"),
        ("DAVIS F", "F_mean"),
        ("panoptic quality", "PQ"),
        ("PQ of things", "PQ_things"),
        ("PQ of stuff", "PQ_stuff"),
        ("segmentation q.", "SQ"),
        ("recognition q.", "RQ"),
        ("AP of instances", "AP"),
        ("AP50", "AP50"),
        ("V rand", "V_rand"),
        ("V info", "V_info"),
        ("Rand error", "rand_error"),
        ("warping error", "warping_error"),
        ("pixel error", "pixel_error"),
        ("calibration error", "calibration_error"),
    ):
        if key in scores:
            lines.append(f"{name:<{width}} {percent(scores[key])}")
    for name, key in (
        ("Hausdorff 95, px", "mean_hausdorff95"),
        ("Hausdorff, px", "mean_hausdorff"),
        ("ASSD, px", "mean_assd"),
    ):
        if key in scores:
            lines.append(f"{name:<{width}} {percent(scores[key] / 100)}")
    if scores.get("surface_misses"):
        lines.append(
            f"distances leave out {scores['surface_misses']:.0f} classes that label or prediction lack in an image"
        )
    return "\n".join(lines)
