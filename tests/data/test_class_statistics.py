import numpy as np
import pytest

from segjax.data.class_statistics import ClassStatistics, class_statistics, median_frequency_weights
from segjax.data.dataset import Dataset
from tests.data.test_source import INFO, Made


class Labels(Made):
    def __init__(self, labels):
        super().__init__([label.shape for label in labels])
        self.labels = labels

    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": self.labels[index]}


def test_counts_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    labels = [rng.choice([0, 1, 255], (5, 7)), rng.choice([1, 255], (3, 4)), rng.choice([0, 1], (2, 3, 3))]
    labels = [label.astype(np.uint8) for label in labels]
    found = class_statistics(Dataset(INFO, "train", Labels(labels), ["a", "b", "c"]))
    for value in range(3):
        where = [label for label in labels if (label == value).any()]
        assert found.pixels[value] == sum(int((label == value).sum()) for label in labels)
        assert found.images[value] == len(where)
        assert found.pixels_where_present[value] == sum(label.size for label in where)
    assert found.unlabelled == sum(int((label == 255).sum()) for label in labels)
    assert found.pixels[2] == 0


def test_median_frequency_weights_by_hand():
    """Two images of 100 pixels. a: 80 + 60 of 200; b: 20 of 100; c: 40 of 100. Frequencies 0.7, 0.2, 0.4."""
    statistics = ClassStatistics(np.array([140, 20, 40, 0]), 0, np.array([2, 1, 1, 0]), np.array([200, 100, 100, 0]))
    np.testing.assert_allclose(median_frequency_weights(statistics), [0.4 / 0.7, 2.0, 1.0, 0.0])


def test_nothing_labelled_gives_no_weights():
    none = np.zeros(3, np.int64)
    assert not median_frequency_weights(ClassStatistics(none, 50, none, none)).any()


def test_an_error_of_the_source_is_passed_on():
    class Torn(Made):
        def __getitem__(self, index):
            raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        class_statistics(Dataset(INFO, "train", Torn([(2, 2)]), ["a"]))
