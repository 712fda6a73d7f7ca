import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.data.augment.transforms import resize_image, resize_label
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.source import cached, resized
from tests.references.resize import antialiased_bilinear, nearest_label

INFO = DatasetInfo(
    name="made",
    class_names=("a", "b", "c"),
    palette=np.zeros((3, 3), np.uint8),
    ignore_label=None,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    splits=("train",),
)


class Made:
    """Examples of one size each, and a count of how often each was read."""

    def __init__(self, shapes):
        self.shapes, self.reads = shapes, [0] * len(shapes)

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        self.reads[index] += 1
        rng = np.random.default_rng(index)
        shape = self.shapes[index]
        return {
            "image": rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
            "label": rng.choice([0, 1, 2, 255], shape).astype(np.uint8),
            "id": f"e{index}",
        }


def dataset(shapes):
    return Dataset(INFO, "train", Made(shapes), [f"e{i}" for i in range(len(shapes))])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(0, 9))
def test_label_takes_the_nearest_pixel_at_half_pixel_centres(height, width, new_height, new_width, seed):
    label = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    size = (new_height, new_width)
    np.testing.assert_array_equal(resize_label(label, size), nearest_label(label, size))


@pytest.mark.parametrize(("shape", "size"), [((12, 16), (6, 8)), ((13, 9), (5, 4)), ((5, 7), (11, 10))])
def test_image_is_filtered_bilinearly(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    # Pillow rounds to whole values after each of its two passes, half a value each.
    np.testing.assert_allclose(resize_image(image, size), antialiased_bilinear(image, size), atol=1.01)


def test_resized_gives_every_example_one_size_and_keeps_the_rest():
    data = resized(dataset([(12, 16), (7, 5)]), (6, 8))
    assert data.source.sizes() == [(6, 8), (6, 8)]
    for index in range(2):
        example = data.source[index]
        assert example["image"].shape == (6, 8, 3)
        assert example["image"].dtype == np.uint8
        assert example["label"].shape == (6, 8)
        assert set(np.unique(example["label"])) <= {0, 1, 2, 255}
        assert example["id"] == f"e{index}"


def test_resized_treats_each_frame_of_a_clip_alike():
    clip = resized(dataset([(3, 12, 16)]), (5, 7)).source[0]
    whole = Made([(3, 12, 16)])[0]
    assert clip["image"].shape == (3, 5, 7, 3)
    for frame in range(3):
        np.testing.assert_array_equal(clip["image"][frame], resize_image(whole["image"][frame], (5, 7)))
        np.testing.assert_array_equal(clip["label"][frame], nearest_label(whole["label"][frame], (5, 7)))


def test_resized_with_none_is_the_data_set_itself():
    data = dataset([(4, 4)])
    assert resized(data, None) is data


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,)])
def test_resized_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match="height, width"):
        resized(dataset([(4, 4)]), size)


def test_cache_reads_each_example_once():
    source = Made([(4, 6)] * 3)
    kept = cached(source, 10**6)
    for _ in range(3):
        for index in range(3):
            np.testing.assert_array_equal(kept[index]["image"], Made([(4, 6)] * 3)[index]["image"])
    assert source.reads == [1, 1, 1]
    assert len(kept) == 3


def test_cache_keeps_what_fits_into_its_bytes_and_reads_the_rest_through():
    source = Made([(4, 6)] * 3)
    example_bytes = 4 * 6 * 4
    kept = cached(source, 2 * example_bytes + example_bytes // 2)
    for _ in range(2):
        for index in range(3):
            kept[index]
    assert source.reads == [1, 1, 2]


def test_cache_of_no_bytes_is_the_source_itself():
    source = Made([(4, 6)])
    assert cached(source, 0) is source


def test_cached_examples_cannot_be_changed_by_a_reader():
    example = cached(Made([(4, 6)]), 10**6)[0]
    with pytest.raises(ValueError, match="read-only"):
        example["image"][0] = 0


def test_cache_is_not_pickled_with_the_source():
    kept = cached(Made([(64, 64)] * 20), 10**9)
    for index in range(20):
        kept[index]
    data = pickle.dumps(kept)
    assert len(data) < 64 * 64
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy[3]["label"], kept[3]["label"])


def test_cache_stays_within_its_bytes_when_threads_read():
    source = Made([(8, 8)] * 50)
    example_bytes = 8 * 8 * 4
    kept = cached(source, 10 * example_bytes)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda index: kept[index]["id"], list(range(50)) * 4))
    assert ids == [f"e{index}" for index in range(50)] * 4
    before = list(source.reads)
    for index in range(50):
        kept[index]
    assert sum(after == old for after, old in zip(source.reads, before, strict=True)) == 10


def test_cache_knows_sizes_exactly_where_its_source_does():
    assert not hasattr(cached(Made([(4, 6)]), 100), "sizes")
    assert cached(resized(dataset([(4, 6)]), (2, 3)).source, 100).sizes() == [(2, 3)]
