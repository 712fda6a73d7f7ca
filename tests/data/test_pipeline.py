"""Batches as a function of (seed, step): over worker processes, hosts, resumes; padding of the evaluation."""

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest

from segjax.core.batch import IGNORE_LABEL
from segjax.data import pipeline
from segjax.data.dataset import Dataset, DatasetInfo

INFO = DatasetInfo("test", ("a", "b"), np.zeros((2, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("train",))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Example k is an image full of k; sizes may differ."""

    sizes_: tuple[tuple[int, int], ...]

    def __len__(self):
        return len(self.sizes_)

    def __getitem__(self, index):
        size = self.sizes_[index]
        return {
            "image": np.full((*size, 3), index, np.uint8),
            "label": np.full(size, index % 2, np.uint8),
            "id": str(index),
        }


def dataset(sizes) -> Dataset:
    source = Numbers(tuple(sizes))
    return Dataset(INFO, "train", source, [str(k) for k in range(len(sizes))])


@dataclasses.dataclass(frozen=True)
class AddNoise:
    def __call__(self, example, rng):
        return {**example, "image": example["image"] + rng.random(example["image"].shape, np.float32)}


@dataclasses.dataclass(frozen=True)
class AddWeight:
    def __call__(self, example, rng):
        return {**example, "weight": rng.random(example["label"].shape, np.float32)}


def batches(count=7, batch_size=4, steps=9, seed=3, **kwargs):
    return pipeline.training_batches(
        dataset([(2, 2)] * count), AddNoise(), batch_size=batch_size, steps=steps, seed=seed, **kwargs
    )


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_has_the_stated_keys_and_dtypes():
    batch = batches()[0]
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "image": (np.float32, (4, 2, 2, 3)),
        "label": (np.uint8, (4, 2, 2)),
        "index": (np.int32, (4,)),
    }


def test_a_weight_is_in_the_batch_where_the_transform_gives_one():
    weighted = pipeline.training_batches(dataset([(2, 3)] * 7), AddWeight(), batch_size=4, steps=9, seed=3)
    assert weighted[0]["weight"].dtype == np.float32
    assert weighted[0]["weight"].shape == (4, 2, 3)
    assert weighted[0].keys() == {"image", "label", "weight", "index"}
    for step, batch in zip(range(2, 9), pipeline.iterate(weighted, start=2, stop=9), strict=True):
        assert_equal(batch, weighted[step])


def test_every_epoch_is_another_permutation_of_all_examples():
    order = [int(index) for step in range(7) for index in batches(steps=7)[step]["index"]]
    epochs = [order[k : k + 7] for k in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_seed_decides_order_and_noise():
    assert_equal(batches(seed=3)[2], batches(seed=3)[2])
    assert (batches(seed=3)[2]["image"] != batches(seed=4)[2]["image"]).any()


def test_an_example_gets_new_random_numbers_each_epoch():
    values = {}
    for step in range(9):
        batch = batches()[step]
        for index, image in zip(batch["index"], batch["image"], strict=True):
            values.setdefault(int(index), []).append(float(image[0, 0, 0]))
    assert all(len(set(seen)) == len(seen) > 1 for seen in values.values())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_worker_processes_and_a_later_start_change_nothing(workers):
    expected = [batches()[step] for step in range(2, 9)]
    got = list(pipeline.iterate(batches(), start=2, stop=9, workers=workers))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert_equal(a, b)


def test_workers_leave_signals_to_the_process_that_trains():
    got = pipeline.iterate(batches(), start=2, stop=9, workers=1)
    found = [next(got)]
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    for batch, step in zip([*found, *got], range(2, 9), strict=True):
        assert_equal(batch, batches()[step])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_have_the_rows_of_the_global_batch_in_order(hosts):
    whole = batches()
    parts = [batches(process_index=p, process_count=hosts) for p in range(hosts)]
    for step in range(9):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in ("image", "label", "index")}
        assert_equal(joined, whole[step])


def test_the_order_alone_says_which_examples_a_step_has():
    order = pipeline.training_order(7, 9 * 4, seed=3)
    for step in range(9):
        expected = [order[n] for n in range(4 * step, 4 * step + 4)]
        assert batches()[step]["index"].tolist() == expected


def test_nothing_left_to_do_gives_no_batches():
    assert list(pipeline.iterate(batches(), start=9, stop=9)) == []


def test_errors_of_a_training():
    with pytest.raises(ValueError, match="must have examples"):
        batches(count=0)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        batches(process_count=3)


def test_prefetch_keeps_order_and_runs_ahead():
    put = []
    for value in pipeline.prefetch_to_device(range(6), lambda x: put.append(x) or x):
        assert put[-1] == min(5, value + pipeline.PREFETCH)
    assert put == list(range(6))


SIZES = [(5, 7), (8, 8), (5, 6), (16, 8), (8, 8)]


def evaluation(sizes=SIZES, batch_size=2, size_multiple=8, **kwargs):
    return list(
        pipeline.evaluation_batches(
            dataset(sizes),
            lambda example: {**example, "image": example["image"].astype(np.float32) + 1},
            batch_size=batch_size,
            size_multiple=size_multiple,
            **kwargs,
        )
    )


def test_every_example_is_evaluated_once_at_its_own_size():
    seen = {}
    for batch in evaluation():
        for row, index in enumerate(batch["index"]):
            if index < 0:
                assert (batch["label"][row] == IGNORE_LABEL).all()
                assert (batch["image"][row] == 0).all()
                continue
            height, width = batch["size"][row]
            assert index not in seen
            seen[int(index)] = (height, width)
            assert (batch["label"][row, :height, :width] == index % 2).all()
            assert (batch["image"][row, :height, :width] == index + 1).all()
            assert (batch["label"][row] != IGNORE_LABEL).sum() == height * width
            assert batch["image"][row].sum() == height * width * 3 * (index + 1)
    assert seen == dict(enumerate(SIZES))


def test_examples_of_one_padded_size_share_batches():
    shapes = [batch["image"].shape for batch in evaluation()]
    assert shapes == [(2, 8, 8, 3), (2, 8, 8, 3), (2, 16, 8, 3)]
    assert len(evaluation(size_multiple=1)) == 4


def test_a_size_with_few_examples_has_smaller_batches():
    shapes = [batch["image"].shape for batch in evaluation(batch_size=4, parts=2)]
    assert shapes == [(4, 8, 8, 3), (2, 16, 8, 3)]
    assert [batch["index"].tolist() for batch in evaluation(batch_size=4, parts=2)] == [[0, 1, 2, 4], [3, -1]]
    assert [len(batch["index"]) for batch in evaluation(batch_size=2, parts=1)] == [2, 2, 1]
    parts = [evaluation(batch_size=4, parts=2, process_index=p, process_count=2) for p in range(2)]
    assert [[b["index"].tolist() for b in part] for part in parts] == [[[0, 1], [3]], [[2, 4], [-1]]]


def test_processes_share_the_evaluation_with_equal_shapes():
    parts = [evaluation(batch_size=4, process_index=p, process_count=2) for p in range(2)]
    assert [b["image"].shape for b in parts[0]] == [b["image"].shape for b in parts[1]]
    indices = [int(i) for part in parts for batch in part for i in batch["index"] if i >= 0]
    assert sorted(indices) == list(range(5))


def test_round_up():
    assert pipeline.round_up((97, 131), 32) == (128, 160)
    assert pipeline.round_up((64, 32), 32) == (64, 32)
