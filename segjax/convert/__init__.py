"""Weights from elsewhere: a file and the names of its source -> variables of ours, and what became of every key.

`segjax.convert.read` reads files, `segjax.convert.mapping` applies rules, and the other files hold the rules of a
source by our model's name. SOURCES is the list; `read_weights`, then `place_weights`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.convert import espnet, smp, timm, torchvision, transformers, transformers_mask2former, transformers_upernet
from segjax.convert.mapping import Report, Rule, convert, same_names
from segjax.convert.read import read_weights as read_weights
from segjax.core.config import nearest

SOURCES: dict[str, Mapping[str, tuple[Rule, ...]]] = {
    "segjax": {},  # our own names, which need no rules
    "torchvision": torchvision.RULES,
    "smp": smp.RULES,
    "timm": timm.RULES,
    "espnet": espnet.RULES,
    "transformers": {**transformers.RULES, **transformers_upernet.RULES, **transformers_mask2former.RULES},
}
"""Whose names a file bears -> our model's name -> rules."""

BACKBONES = {
    "torchvision": torchvision.BACKBONES,
    "timm": timm.BACKBONES,
    "transformers": {**transformers.BACKBONES, **transformers_upernet.BACKBONES},
}
"""The same by our backbone's name, for files of classifiers and models that have no counterpart there."""

CLASSIFIER = r"(fc|classifier|head|pre_logits|last_linear)(\..*)?"
"""How the layers after the backbone are called in a file of a classifier."""

PREFIXES = ("backbone.", "encoder.", "decode_head.", "model.")
"""With these begin keys of segmentation networks; a classifier has its layers at the top, or below its own name."""

LISTED = 20


@dataclasses.dataclass(frozen=True)
class InitReport:
    """What became of every key of a file and of every variable of a model.

    Attributes:
      origin, source: the file or workdir, and whose names it bears.
      report: see `segjax.convert.mapping.Report`; it lists no problem that is not in `fresh` or `left_out`.
      fresh: (our path, why) of the variables that do not come from the file.
      left_out: (their key, why) of what was not taken over.
      notes: sentences about the file.
    """

    origin: str
    source: str
    report: Report
    fresh: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """A few lines to print."""
        loaded, reshaped, folded = (len(getattr(self.report, name)) for name in ("loaded", "reshaped", "folded"))
        lines = [
            f"weights of {self.source} from {self.origin}: {loaded} of {loaded + len(self.fresh)} variables loaded"
            + (f", {reshaped} of them reshaped" if reshaped else "")
            + (f", {folded} biases subtracted from the means that follow them" if folded else ""),
            *self.notes,
        ]
        for what, items in (("not from the file", self.fresh), ("left out of the file", self.left_out)):
            reasons = dict.fromkeys(why for _, why in items)
            for reason in reasons:
                names = [name for name, why in items if why == reason]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"{what}: {', '.join(names[:3])}{more} ({reason})")
        return "\n  ".join(lines)

    def text(self) -> str:
        """Every key, for a file."""
        parts = {
            "loaded (theirs -> ours)": [" -> ".join(pair) for pair in self.report.loaded],
            "reshaped, of those": [" -> ".join(pair) for pair in self.report.reshaped],
            "folded: biases subtracted from means": [" -> ".join(pair) for pair in self.report.folded],
            "missing: ours that do not come from the file": [f"{path}: {why}" for path, why in self.fresh],
            "skipped: theirs that were left out": [f"{key}: {why}" for key, why in self.left_out],
        }
        blocks = [
            "\n".join([f"{title}: {len(lines)}", *(f"  {line}" for line in lines)]) for title, lines in parts.items()
        ]
        return "\n\n".join([self.summary(), *blocks]) + "\n"


def place_weights(
    arrays: Mapping[str, np.ndarray],
    source: str,
    target: Mapping[str, Any],
    *,
    model: str,
    num_classes: int,
    training: bool,
    backbone: str = "",
    allow_missing: str = "",
    allow_unused: str = "",
    origin: str = "",
    notes: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], InitReport]:
    """Arrays under a source's names as variables of ours.

    In training the layers whose last dimension is the number of classes keep their initialisation where that number
    is another one, and a file of a classifier fills the backbone while the rest starts anew. In evaluation both are
    errors, as are, in both, all other keys that find no place and variables that find no key.

    Args:
      arrays: by the source's names.
      source: key of SOURCES.
      target: {our path: ShapeDtypeStruct} with paths such as `params/backbone/conv1/conv/kernel`.
      model, backbone: our names of them; backbone is "" where the model takes none.
      num_classes: of the model.
      training: whether variables that are not found have an initialisation.
      allow_missing: regular expression; variables in whose path it is found may be missing or have another shape.
      allow_unused: regular expression; keys of the file in which it is found may be left out.
      origin, notes: for the report.
    Returns:
      ({our path: array of the target's shape and dtype}, report); what is absent is in `report.fresh`.
    Raises:
      ValueError: an unknown source, no rules for this model, or keys or variables that do not fit, of which LISTED
        are listed and the rest counted.
    """
    bare = source in BACKBONES and not any(key.startswith(PREFIXES) for key in arrays)
    if source == "segjax":
        found, report = same_names(arrays, target)
    else:
        found, report = convert(arrays, target, rules_of(source, model, backbone))

    anew = "starts anew" if training else "is zero"
    filled = {path.split("/")[1] for path in found}
    problems: list[str] = []
    fresh: list[tuple[str, str]] = []
    left_out = list(report.skipped)
    for key, path, theirs, ours in report.mismatched:
        shapes = f"{list(theirs)} in the file, {list(ours)} needed"
        if bare and re.fullmatch(CLASSIFIER, key):
            left_out.append((key, "of the classifier"))
            fresh.append((path, f"the file is of a classifier: the rest {anew}"))
        elif training and theirs[:-1] == ours[:-1] and ours[-1] == num_classes:
            left_out.append((key, f"for {theirs[-1]} classes"))
            fresh.append((path, f"for {num_classes} classes, not {theirs[-1]}: {anew}"))
        elif _allowed(allow_missing, path):
            left_out.append((key, f"of another shape, as allowed: {shapes}"))
            fresh.append((path, f"of another shape, as allowed: {anew}"))
        else:
            problems.append(f"{key}: {shapes}")
    for path in report.missing:
        if bare and training and path.split("/")[1] not in filled:
            fresh.append((path, f"the file is of a classifier: the rest {anew}"))
        elif _allowed(allow_missing, path):
            fresh.append((path, f"missing, as allowed: {anew}"))
        else:
            problems.append(f"{path}: not in the file")
    for key, why in (*((key, "only in the file") for key in report.unknown), *report.unused):
        if bare and re.fullmatch(CLASSIFIER, key):
            left_out.append((key, "of the classifier"))
        elif _allowed(allow_unused, key):
            left_out.append((key, f"{why}, as allowed"))
        else:
            problems.append(f"{key}: {why}")
    if problems or not found:
        raise ValueError(_message(problems, len(arrays), len(found), origin, source, model, bare and not training))
    if bare:
        notes = [*notes, "the file is of a classifier"]
    return found, InitReport(origin, source, report, tuple(fresh), tuple(left_out), tuple(notes))


def place_weights_below(
    arrays: Mapping[str, np.ndarray], source: str, target: Mapping[str, Any], part: str, **options: Any
) -> tuple[dict[str, np.ndarray], InitReport]:
    """`place_weights` for the part of a model at `params/<part>/...`, in training: the rest starts anew.

    Args:
      options: those of `place_weights`, where model and backbone are the part's.
    """
    inner = {_moved(path, part, ""): leaf for path, leaf in target.items() if path.split("/")[1] == part}
    rest = [path for path in target if path.split("/")[1] != part]
    found, told = place_weights(arrays, source, inner, training=True, **options)
    pairs = {
        name: tuple((key, _moved(path, "", part)) for key, path in getattr(told.report, name))
        for name in ("loaded", "reshaped", "folded")
    }
    fresh = tuple((_moved(path, "", part), why) for path, why in told.fresh)
    fresh += tuple((path, f"the file is of the {part} alone: the rest starts anew") for path in rest)
    told = dataclasses.replace(told, report=dataclasses.replace(told.report, **pairs), fresh=fresh)
    return {_moved(path, "", part): array for path, array in found.items()}, told


def _moved(path: str, old: str, new: str) -> str:
    """`params/old/rest` -> `params/new/rest`, where "" is no such folder."""
    collection, rest = path.split("/", 1)
    rest = rest.removeprefix(f"{old}/") if old else rest
    return "/".join([collection, new, rest] if new else [collection, rest])


def rules_of(source: str, model: str, backbone: str = "") -> tuple[Rule, ...]:
    """The rules for our model, or for its backbone alone.

    Raises:
      ValueError: an unknown source, or one without rules for either.
    """
    if source not in SOURCES:
        raise ValueError(f"the source of weights {source!r} is unknown; {nearest(source, SOURCES)}")
    if model in SOURCES[source]:
        return SOURCES[source][model]
    for beginning, rules in BACKBONES.get(source, {}).items():
        if backbone.startswith(beginning):
            return rules
    names = ", ".join(sorted(SOURCES[source])) or "none"
    raise ValueError(f"{source} must have the model {model!r} for its weights to be used; there are rules for: {names}")


def _allowed(pattern: str, name: str) -> bool:
    return bool(pattern) and re.search(pattern, name) is not None


def _message(
    problems: list[str], keys: int, loaded: int, origin: str, source: str, model: str, needs_training: bool
) -> str:
    lines = [
        f"{origin or 'the weights'} must have the variables of {model}, the model that the config describes, under"
        f" names of {source}; {loaded} of its {keys} keys fit, and it differs in",
        *(f"  {problem}" for problem in problems[:LISTED]),
    ]
    if len(problems) > LISTED:
        lines.append(f"  and {len(problems) - LISTED} more")
    if needs_training:
        lines.append("It is the file of a classifier, which can start a training but not be evaluated.")
    lines.append(
        "Whose names they are says config.init.source. Regular expressions in config.init.allow_missing (on our paths)"
        " and config.init.allow_unused (on the file's keys) say what may differ."
    )
    return "\n".join(lines)
