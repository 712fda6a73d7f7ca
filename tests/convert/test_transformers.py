"""Files of transformers in training and in evaluation: of other classes, and of a classifier."""

import pytest

from segjax.convert import place_weights
from segjax.models import build_model
from tests.models.variables import shapes_of
from tests.references.pytorch import library, state_arrays

SIZES = dict(hidden_sizes=[4, 8, 20, 32], depths=[1] * 4, num_attention_heads=[1, 2, 5, 8], decoder_hidden_size=8)


def place(kind, training):
    transformers = library("transformers")
    config = transformers.SegformerConfig(**SIZES, num_labels=150)
    file = state_arrays(getattr(transformers, f"SegformerFor{kind}")(config))
    model = build_model("segformer", num_classes=11, width=4, depths=(1,) * 4, channels=8)
    return place_weights(
        file, "transformers", shapes_of(model), model="segformer", num_classes=11, training=training, origin=kind
    )


def test_a_file_for_other_classes_fills_all_but_the_last_layer():
    found, report = place("SemanticSegmentation", True)
    assert {path for path, _ in report.fresh} == {"params/head/logits/kernel", "params/head/logits/bias"}
    assert len(found) == len(report.report.loaded) > 80
    with pytest.raises(ValueError, match=r"\[1, 1, 8, 150\] in the file, \[1, 1, 8, 11\] needed"):
        place("SemanticSegmentation", False)


def test_a_classifier_fills_the_backbone():
    found, report = place("ImageClassification", True)
    assert {path.split("/")[1] for path in found} == {"backbone"}
    assert not [path for path, _ in report.fresh if "backbone" in path]
    assert "the file is of a classifier" in report.summary()
    with pytest.raises(ValueError, match="can start a training but not be evaluated"):
        place("ImageClassification", False)
