"""How much of a segmenter's mIoU is left when its images are corrupted.

Corruption errors are those of Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019, with 1 - mIoU for the error, as Kamann & Rother, Benchmarking the Robustness of Semantic
Segmentation Models, CVPR 2020, take it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.progress import Progress

from segjax.core import sharding
from segjax.core.logger import read_json, write_json
from segjax.core.softmax import not_finite
from segjax.evaluation import metrics
from segjax.evaluation.inference import Apply
from segjax.evaluation.protocol import Protocol

Corrupt = Callable[[str, jax.Array, jax.Array, jax.Array], jax.Array]
"""(name, key, image float32 [H, W, 3] as the network takes it, severity) -> the image corrupted."""


def build_scorer(
    predict: Apply,
    corrupt: Corrupt,
    names: Sequence[str],
    severities: Sequence[int],
    num_classes: int,
    mesh: Mesh,
    keys: Mapping[str, jax.Array],
) -> Callable[[Any, Iterable[Mapping[str, np.ndarray]], int], np.ndarray]:
    """Build `score(variables, batches, images) -> mIoU`, float64 [names, severities].

    A batch is read once and corrupted in each way on the device. The network is compiled once for each size of images,
    and each corruption by itself: measured against one program a corruption, and one that switches between them.

    Args:
      predict: (variables, image [N, H, W, 3]) -> probabilities [N, H, W, C].
      keys: for each name; example k is corrupted with `fold_in(key, k)`, in whatever batch it comes.
      batches: of `segjax.data.pipeline.evaluation_batches`, with size_multiple 1: padding would be corrupted too.
      images: how many there are, for the progress that is shown.
    Raises, when called:
      ValueError: the network's probabilities of some images are not finite.
    """
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def corrupted(name):
        def of_one(shared, row):
            key, severity = shared
            return corrupt(name, jax.random.fold_in(key, row[1]), row[0], severity)

        def of_batch(key, severity, batch, height):
            image, index = sharding.cut_rows(batch, height)["image"], batch["index"]
            return sharding.by_examples(
                lambda shared, *rows: jax.lax.map(lambda row: of_one(shared, row), rows), (key, severity), image, index
            )

        return jax.jit(
            sharding.for_mesh(of_batch, mesh),
            in_shardings=(whole, whole, None),
            out_shardings=batch,
            static_argnums=3,
        )

    def step(variables, image, batch, totals, height):
        if sharding.row_parts(mesh) > 1:
            image = sharding.split_batch(mesh, {"image": image})["image"]
        probabilities, (counts, wrong) = predict(variables, image), totals
        label, prediction = sharding.cut_rows(batch, height)["label"], probabilities.argmax(-1).astype(jnp.uint8)
        counts = metrics.add_counts(counts, metrics.confusion_matrix(prediction, label, num_classes))
        finite = jnp.isfinite(probabilities).all((1, 2, 3)) | (batch["index"] < 0)
        return counts, wrong + (~finite).sum()

    step = jax.jit(
        sharding.for_mesh(step, mesh), in_shardings=(None, batch, None, whole), out_shardings=whole, static_argnums=4
    )
    corruptions = {name: corrupted(name) for name in names}

    def score(variables, batches, images):
        cells = [(name, severity) for name in names for severity in severities]
        empty = jax.device_put((metrics.init_counts((num_classes, num_classes)), jnp.int32(0)), whole)
        totals = dict.fromkeys(cells, empty)
        with Progress(disable=not sharding.is_main_process()) as progress:
            task = progress.add_task("corrupting", total=images * len(cells))
            for local in batches:
                wanted, height = {name: local[name] for name in ("image", "label", "index")}, local["label"].shape[-2]
                found = sharding.put_batch(mesh, sharding.fill_rows(mesh, wanted))
                for name, severity in cells:
                    image = corruptions[name](keys[name], jnp.int32(severity), found, height)
                    totals[name, severity] = step(variables, image, found, totals[name, severity], height)
                    progress.update(task, advance=int((local["index"] >= 0).sum()) * jax.process_count())
                jax.block_until_ready(totals)
        for (name, severity), (_, wrong) in totals.items():
            if wrong:
                raise not_finite(
                    f"those of {int(wrong)} of the {images} images are not with {name} at severity {severity}"
                )
        values = [metrics.scores(metrics.counts(counts))["mIoU"] for counts, _ in totals.values()]
        return np.asarray(values, np.float64).reshape(len(names), len(severities))

    return score


def corruption_errors(
    miou: np.ndarray, clean: float, baseline_miou: np.ndarray, baseline_clean: float
) -> dict[str, Any]:
    """Errors in units of a baseline's: below 1 is more robust. With E = 1 - mIoU, sums over the severities s,

      CE_c = sum_s E_sc / sum_s E_sc of the baseline,
      relative CE_c = sum_s (E_sc - E_clean) / sum_s (E_sc - E_clean) of the baseline,

    and mCE and relative mCE are their means over the corruptions c (Hendrycks & Dietterich 2019). A relative CE is NaN
    where the baseline loses nothing by the corruption, and does not count in the mean.

    Args:
      miou, baseline_miou: [corruptions, severities], 0..1, of the same corruptions and severities.
      clean, baseline_clean: mIoU without corruption.
    Returns:
      CE and relative_CE: float64 [corruptions]; mCE and relative_mCE.
    """
    ours, theirs = (1 - miou).sum(1), (1 - baseline_miou).sum(1)
    lost, lost_there = (clean - miou).sum(1), (baseline_clean - baseline_miou).sum(1)
    ce = np.where(theirs > 0, ours / np.where(theirs > 0, theirs, 1), np.nan)
    relative = np.where(lost_there > 0, lost / np.where(lost_there > 0, lost_there, 1), np.nan)
    return {"CE": ce, "relative_CE": relative, "mCE": _mean(ce), "relative_mCE": _mean(relative)}


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def summarise(
    names: Sequence[str], severities: Sequence[int], miou: np.ndarray, clean: float, baseline: Mapping | None = None
) -> dict[str, Any]:
    """What robustness-*.json holds of the scores; all mIoU are in 0..1.

    Args:
      miou: [names, severities].
      baseline: of `read_baseline`.
    """

    def by_name(values):
        return dict(zip(names, np.asarray(values).tolist(), strict=True))

    def by_severity(values):
        return dict(zip(map(str, severities), np.asarray(values).tolist(), strict=True))

    found = {
        "clean_mIoU": float(clean),
        "mean_mIoU": float(miou.mean()),
        "mIoU": {name: by_severity(row) for name, row in zip(names, miou, strict=True)},
        "mIoU_by_corruption": by_name(miou.mean(1)),
        "mIoU_by_severity": by_severity(miou.mean(0)),
    }
    if baseline is not None:
        theirs = np.array([[baseline["mIoU"][name][str(severity)] for severity in severities] for name in names])
        errors = corruption_errors(miou, clean, theirs, baseline["clean_mIoU"])
        found |= {**errors, "CE": by_name(errors["CE"]), "relative_CE": by_name(errors["relative_CE"])}
        found["baseline"] = {name: baseline.get(name) for name in ("weights", "evaluated_params_sha256")}
    return found


def read_baseline(
    path: str | Path, protocol: Protocol, names: Sequence[str], severities: Sequence[int]
) -> dict[str, Any]:
    """The robustness-*.json of another model, where it was made as ours will be.

    Raises:
      ValueError: it is no such file, its protocol differs, or it lacks a corruption or a severity. Names each.
      OSError: it cannot be read.
    """
    try:
        saved = json.loads(Path(path).expanduser().read_text())
        protocol_there, scores = Protocol.from_dict(saved["protocol"]), saved["mIoU"]
        problems = [f"protocol, {line}" for line in protocol.differences(protocol_there)]
        float(saved["clean_mIoU"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a robustness-*.json of segjax.evaluate with --config.evaluation.corruptions; it is not:"
            f" {error!r}"
        ) from error
    problems += [f"no corruption {name}" for name in names if name not in scores]
    missing = {s for name in names if name in scores for s in severities if scores[name].get(str(s)) is None}
    problems += [f"no severity {severity}" for severity in sorted(missing)]
    if problems:
        raise ValueError(
            f"errors can only be measured against a baseline of the same evaluation; {path} differs (ours | its):\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )
    return saved


def check_folder(
    folder: str | Path,
    protocol: Protocol,
    names: Sequence[str],
    severities: Sequence[int],
    seed: int,
    baseline: str | Path = "",
) -> None:
    """Raise ValueError where `write` would put its scores in the place of others, or of the baseline's."""
    path = Path(folder) / f"robustness-{protocol.name}.json"
    if not path.is_file():
        return
    there = read_json(path)
    ours = {"corruptions": list(names), "severities": list(map(str, severities)), "seed": seed}
    theirs = {"corruptions": list(there.get("mIoU", {})), "severities": list(there.get("mIoU_by_severity", {}))}
    theirs["seed"] = there.get("seed")
    reasons = [f"its {name} are {theirs[name]}, here {ours[name]}" for name in ours if ours[name] != theirs[name]]
    if baseline and Path(baseline).expanduser().resolve() == path.resolve():
        reasons = ["it is config.evaluation.corruption_baseline"]
    if reasons:
        raise ValueError(f"{path} holds other scores: {reasons[0]}. Give --output=DIR for these")


def write(folder: str | Path, summary: Mapping[str, Any], protocol: Protocol, facts: Mapping[str, Any]) -> Path:
    """Write robustness-<protocol>.json and .png. Returns the JSON's path."""
    path = Path(folder) / f"robustness-{protocol.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"protocol": protocol.to_dict(), **summary, **facts})
    draw(path.with_name(path.stem + ".png"), summary, f"mIoU in percent\n{protocol.name}")
    return path


def draw(path: str | Path, summary: Mapping[str, Any], title: str) -> None:
    """A heat map of mIoU in percent: a row for each corruption, a column for each severity, the clean score on top."""
    from matplotlib.figure import Figure

    severities = list(summary["mIoU_by_severity"])
    rows = {"clean": [summary["clean_mIoU"]] * len(severities)}
    rows |= {name: list(scores.values()) for name, scores in summary["mIoU"].items()}
    values = 100 * np.array(list(rows.values()), float)
    figure = Figure(figsize=(2.4 + 0.75 * len(severities), 1.3 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    highest = max(np.nanmax(values, initial=0), 1e-6)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
    axes.set_xticks(range(len(severities)), severities)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.axhline(0.5, color="white", linewidth=3)
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > 0.6 * highest else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xlabel("severity")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=120)


def table(summary: Mapping[str, Any], protocol: Protocol) -> str:
    """mIoU in percent of each corruption and severity as text, and the corruption errors where there is a baseline."""
    severities, errors = list(summary["mIoU_by_severity"]), "CE" in summary

    def line(name, values, more=()):
        return f"{name:<16}" + "".join(f"{100 * value:8.2f}" for value in (*values, *more)).replace("nan", "  -")

    def of(name):
        return [summary[kind][name] for kind in ("CE", "relative_CE")] if errors else []

    blank = " " * 8 * len(severities)
    lines = [
        f"mIoU of corrupted images, {protocol.dataset}, {protocol.split} ({protocol.name})",
        f"{'severity':<16}" + "".join(f"{s:>8}" for s in [*severities, "mean", *(["CE", "rel. CE"] if errors else [])]),
        f"{'clean':<16}{blank}{100 * summary['clean_mIoU']:8.2f}",
    ]
    for name, scores in summary["mIoU"].items():
        lines.append(line(name, scores.values(), [summary["mIoU_by_corruption"][name], *of(name)]))
    means = [summary[kind] for kind in ("mCE", "relative_mCE")] if errors else []
    lines.append(line("mean", summary["mIoU_by_severity"].values(), [summary["mean_mIoU"], *means]))
    return "\n".join(lines)
