"""A data set and a model's probabilities -> scores, pictures, and the file that says how both were made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from rich.progress import track

from segjax.core import pictures, sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.core.logger import write_json
from segjax.evaluation import boundary, metrics, video
from segjax.evaluation.inference import Apply
from segjax.evaluation.protocol import Protocol


class Totals(NamedTuple):
    """What is summed on the device over a split: O(classes^2) numbers, whatever the number of pixels."""

    confusion: metrics.ExactCounts
    calibration: metrics.CalibrationState


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
        clips: Sequence[Sequence[int]] = (),
        images: int = 4,
        boundary_f1: bool = False,
        davis: bool = False,
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
          clips: the indices of each clip's frames, for DAVIS's scores.
          images: how many pictures to draw.
          boundary_f1: score the borders too; the protocol must then leave the images unpadded.
          davis: score clips by DAVIS's J and F too.
          further: variables -> scores of another kind, which are added to ours.
          progress: show a bar.
        """
        if len(dataset) == 0:
            raise ValueError(f"split {dataset.split!r} of {dataset.info.name!r} must have examples; it has none")
        self.dataset, self.protocol = dataset, protocol
        self._batches, self._mesh, self._progress = batches, mesh, progress
        self._begin, self._clips, self._further = begin, clips, further
        self._drawn = {int(index) for index in np.linspace(0, len(dataset) - 1, min(images, len(dataset)))}
        self.panels: dict[str, np.ndarray] = {}
        batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self._step = jax.jit(
            build_eval_step(
                predict if begin else _by_images(predict),
                dataset.info.num_classes,
                boundary_f1=boundary_f1,
                davis=davis,
            ),
            in_shardings=(None, batch, whole, batch),
            out_shardings=(whole, whole, batch, batch),
        )

    def __call__(self, variables: Any) -> dict[str, Any]:
        """The scores of `segjax.evaluation.metrics.scores`, `per_image_mIoU`, `calibration_error`, `confusion`.

        And `boundary_f1` where it was asked for: the mean over the images; for clips `temporal_consistency`, the mean
        over the frames that have one before them, and DAVIS's scores where they were asked for.
        """
        num_classes = self.dataset.info.num_classes
        totals = Totals(metrics.init_counts((num_classes, num_classes)), metrics.init_calibration())
        totals = jax.device_put(totals, sharding.replicated(self._mesh))
        batches = self._batches()
        if self._progress and sharding.is_main_process():
            batches = track(batches, "evaluating")
        per_image: dict[str, list] = {}
        predictions, every_index, carried = [], [], Carried({}, None)
        for local in batches:
            batch = sharding.put_batch(self._mesh, local)
            if self._begin:
                carried = self._continued(carried, variables, batch)
            totals, found, prediction, carried = self._step(variables, batch, totals, carried)
            for name, values in found.items():
                per_image.setdefault(name, []).append(values)
            # Every process sees the whole index, so that all of them fetch a batch or none does.
            indices = np.asarray(sharding.fetch(batch["index"])).reshape(-1)
            every_index.append(indices)
            if self._drawn.intersection(indices.tolist()):
                predictions.append((indices, sharding.fetch(prediction)))
        self._draw(predictions)
        confusion = metrics.counts(totals.confusion)
        found = {name: np.concatenate(parts) for name, parts in jax.device_get(per_image).items()}
        davis = {name: found.pop(name) for name in ("J", "F") if name in found}
        return {
            **metrics.scores(confusion),
            **{name: finite_mean(values) for name, values in found.items()},
            **(self._davis(np.concatenate(every_index), **davis) if davis else {}),
            **(self._further(variables) if self._further else {}),
            "calibration_error": metrics.expected_calibration_error(totals.calibration),
            "confusion": confusion,
        }

    def _continued(self, carried, variables, batch):
        """What the batch before left, or an empty start where clips of another size begin."""
        shape = batch["label"].shape[:1] + batch["label"].shape[2:]
        if carried.prediction is not None and carried.prediction.shape == shape:
            return carried
        start = Carried(self._begin(variables, batch["image"]), jnp.zeros(shape, jnp.uint8))
        return jax.device_put(start, sharding.batch_sharding(self._mesh))

    def _davis(self, indices, J, F):
        """Each frame's scores in the order of the split, and from them DAVIS's over the clips."""
        inside = indices >= 0
        order = np.argsort(indices[inside])
        return video.davis_means(J[inside][order], F[inside][order], self._clips)

    def scalars(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The scores that are one number."""
        return {name: value for name, value in scores.items() if np.ndim(value) == 0}

    def write(self, folder: str | Path, scores: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> Path:
        """Write `evaluation-<protocol>.json` and `predictions/<id>.png` of the last call. Returns the JSON's path."""
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
                    kind: dict(zip(names, scores[kind].tolist(), strict=True)) for kind in ("iou", "accuracy", "dice")
                },
                "confusion": {"rows_are_labels": True, "classes": names, "pixels": scores["confusion"]},
                "images": len(self.dataset),
                **(facts or {}),
            },
        )
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


def finite_mean(values: np.ndarray) -> float:
    """Mean of those images that have a score; NaN, and no warning, where none has."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _by_images(predict: Apply) -> Callable:
    """A predictor of single images in the form of one of clips, without states."""
    return lambda variables, states, image, reset: (predict(variables, image), states)


def build_eval_step(predict: Callable, num_classes: int, *, boundary_f1: bool = False, davis: bool = False) -> Callable:
    """(variables, batch, totals, carried) -> (totals, {name: score of each image}, prediction uint8, carried).

    predict is (variables, states, image, reset) -> (probabilities [M, H, W, C], states), M = N for images and N T for
    the frames of clips. Scores are [M], those of DAVIS [M, C - 1]; the prediction is [M, H, W].
    """

    def eval_step(variables, batch, totals: Totals, carried: Carried):
        probabilities, states = predict(variables, carried.states, batch["image"], batch.get("reset"))
        prediction = probabilities.argmax(-1).astype(jnp.uint8)
        label = batch["label"].reshape(prediction.shape)
        per_image = metrics.per_image_confusion(prediction, label, num_classes)
        totals = Totals(
            metrics.add_counts(totals.confusion, per_image.sum(0)),
            metrics.add_calibration(totals.calibration, probabilities.max(-1), prediction, label),
        )
        found = {"per_image_mIoU": per_image_miou(per_image)}
        if boundary_f1:
            found["boundary_f1"] = boundary.boundary_f1(prediction, label, num_classes)
        if "reset" not in batch:
            return totals, found, prediction, carried
        clips = prediction.reshape(batch["label"].shape)
        before = jnp.concatenate([carried.prediction[:, None], clips[:, :-1]], 1).reshape(prediction.shape)
        follows = (batch["index"] >= 0).at[:, 0].min(~batch["reset"]).reshape(-1)
        found["temporal_consistency"] = video.temporal_consistency(prediction, before, follows, num_classes)
        if davis:
            found["J"] = video.davis_j(prediction, label, num_classes)
            found["F"] = video.davis_f(prediction, label, num_classes)
        return totals, found, prediction, Carried(states, clips[:, -1])

    return eval_step


def prediction_panel(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """image | label | prediction | error side by side, uint8 [H, W, 3]: wrong pixels red, unlabelled ones grey."""
    error = np.full(image.shape, 255, np.uint8)
    error[label != prediction] = (214, 39, 40)
    error[label == IGNORE_LABEL] = (150, 150, 150)
    panels = [image, pictures.colourise(label, palette), pictures.colourise(prediction, palette), error]
    return pictures.panel_row(panels, ["image", "label", "prediction", "error"])


def per_image_miou(confusion: jax.Array) -> jax.Array:
    """int32 [N, C, C] -> float32 [N]: each image's mIoU over its own classes; NaN where no pixel is labelled."""
    hit = jnp.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(1) + confusion.sum(2) - hit
    present = union > 0
    iou = jnp.where(present, hit / jnp.maximum(union, 1), 0.0)
    return iou.sum(1) / present.sum(1)


def score_table(scores: Mapping[str, Any], class_names: tuple[str, ...], protocol: Protocol) -> str:
    """IoU per class and the means, in percent, as text; a class that is nowhere has a dash."""

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
        ("calibration error", "calibration_error"),
    ):
        if key not in scores:
            continue
        lines.append(f"{name:<{width}} {percent(scores[key])}")
    return "\n".join(lines)
