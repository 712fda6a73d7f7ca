"""Which frames belong together, the windows that are cut from them, and how batches go through them."""

import os
import pathlib
import pickle

import grain
import numpy as np
import pytest

from segjax.core.batch import IGNORE_LABEL
from segjax.data import clips, pipeline
from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.sets import digit_clips

DATA = pathlib.Path(os.environ.get("SEGJAX_DATA") or "../shared/data")
INFO = DatasetInfo("toy", ("a", "b"), np.zeros((2, 3), np.uint8), None, (0.0,) * 3, (1.0,) * 3, ("train",))


class Source:
    """Frames whose first pixel says which frame it is, each in its own size where sizes are given."""

    def __init__(self, ids, sizes=None):
        self.ids, self._sizes = ids, sizes or [(3, 4)] * len(ids)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image = np.zeros((*self._sizes[index], 3), np.uint8)
        image[0, 0, 0] = index
        return {"image": image, "label": np.ones(self._sizes[index], np.uint8), "id": self.ids[index]}

    def sizes(self):
        return self._sizes


def frames_of(*lengths, sizes=None):
    ids = [f"{clip}/{frame:03d}" for clip, length in zip("abcdef", lengths, strict=False) for frame in range(length)]
    return Dataset(INFO, "train", Source(ids, sizes), ids)


def plain(example, rng=None):
    return {**example, "image": example["image"].astype(np.float32)}


def which(image):
    """The indices of the frames in an image [..., H, W, 3]."""
    return np.asarray(image)[..., 0, 0, 0].astype(int).tolist()


def test_frames_of_a_folder_are_a_clip_in_natural_order():
    ids = ["b/1", "a/frame10", "a/frame2", "b/0", "x/a/3", "a/frame1"]
    assert clips.find_clips(ids) == [[5, 2, 1], [3, 0], [4]]


def test_numbered_runs_end_where_the_step_changes():
    ids = ["s_007", "s_001", "s_004", "s_100", "s_103", "t_1", "alone", "s_010"]
    assert clips.find_clips(ids) == [[6], [1, 2, 0, 7], [3, 4], [5]]
    assert clips.find_clips([]) == []


@pytest.mark.skipif(not (DATA / "camvid/splits").is_dir(), reason="CamVid is not there (SEGJAX_DATA)")
def test_camvids_runs():
    found = {}
    for split in ("train", "val", "test"):
        ids = (DATA / "camvid/splits" / f"{split}.txt").read_text().split()
        found[split] = sorted(map(len, clips.find_clips(ids)))
    assert found == {"train": [1, 16, 17, 50, 62, 101, 120], "val": [101], "test": [62, 171]}


def test_a_data_set_of_clips_as_frames():
    image, label = digit_clips.clip("val", 0)
    clip = {"image": image, "label": label, "id": "val_0000"}
    dataset = clips.as_frames(Dataset(digit_clips.INFO, "val", [clip, clip], ["val_0000", "val_0001"]))
    assert len(dataset) == 16 and dataset.ids[9] == "val_0001/0001"
    np.testing.assert_array_equal(dataset.source[13]["image"], image[5])
    np.testing.assert_array_equal(dataset.source[13]["label"], label[5])
    assert clips.find_clips(dataset.ids) == [list(range(8)), list(range(8, 16))]
    assert not hasattr(dataset.source, "sizes")
    copy = pickle.loads(pickle.dumps(dataset.source))
    np.testing.assert_array_equal(copy[3]["label"], label[3])
    images = frames_of(2)
    assert clips.as_frames(images) is images


def test_a_clip_is_decoded_once_for_its_frames():
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    image, label = digit_clips.clip("val", 0)
    source = Counting([{"image": image, "label": label, "id": "c"}])
    dataset = clips.as_frames(Dataset(digit_clips.INFO, "val", source, ["c"]))
    for index in range(8):
        dataset.source[index]
    assert Counting.reads == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(length=3), [[0, 1, 2], [3, 4, 5], [4, 5, 6], [7, 8, 8]]),
        (dict(length=3, stride=2), [[0, 2, 4], [2, 4, 6], [7, 7, 7]]),
        (dict(length=3, stride=2, hop=1), [[0, 2, 4], [1, 3, 5], [2, 4, 6], [7, 7, 7]]),
        (dict(length=7), [[0, 1, 2, 3, 4, 5, 6], [7, 8, 8, 8, 8, 8, 8]]),
        (dict(length=1), [[index] for index in range(9)]),
    ],
)
def test_windows_of_clips(options, expected):
    dataset = clips.as_clips(frames_of(7, 2), **options)
    assert [which(dataset.source[index]["image"]) for index in range(len(dataset))] == expected
    assert len(set(dataset.ids)) == len(dataset)
    for index, window in enumerate(expected):
        labelled = (dataset.source[index]["label"] != IGNORE_LABEL).all((1, 2))
        new = [frame == 0 or window[frame] != window[frame - 1] for frame in range(len(window))]
        np.testing.assert_array_equal(labelled, new)


def test_frames_of_several_sizes_are_an_error_that_names_both():
    mixed = frames_of(2, sizes=[(3, 4), (5, 4)])
    with pytest.raises(ValueError, match=r"one size.*a/000 \(3, 4\), a/001 \(5, 4\)"):
        clips.as_clips(mixed, 2).source[0]
    with pytest.raises(ValueError, match=r"one size.*a/000 \(3, 4\), a/001 \(5, 4\)"):
        next(clips.evaluation_clip_batches(mixed, plain, batch_size=1, window=2, size_multiple=1))
    with pytest.raises(ValueError, match="at least 1"):
        clips.as_clips(mixed, 0)


def test_clips_go_through_the_training_pipeline():
    batches = pipeline.training_batches(clips.as_clips(frames_of(8, 8), 4), plain, batch_size=2, steps=4, seed=0)
    batch = batches[0]
    assert batch["image"].shape == (2, 4, 3, 4, 3) and batch["label"].shape == (2, 4, 3, 4)
    seen = [row[0] for step in range(2) for row in which(batches[step]["image"])]
    assert sorted(seen) == [0, 4, 8, 12]


def carried(*lengths, batch_size=2, length=3, steps=12, seed=0, **options):
    return clips.carried_batches(
        frames_of(*lengths), options.pop("transform", plain), batch_size=batch_size, length=length, steps=steps,
        seed=seed, **options
    )  # fmt: skip


def test_a_row_goes_through_its_clips_window_by_window():
    batches = carried(7, 3, 4, 1)
    for row in range(2):
        passed = []
        for step in range(12):
            batch = batches[step]
            window, labelled = which(batch["image"])[row], (batch["label"][row] != IGNORE_LABEL).all((1, 2))
            if batch["reset"][row]:
                passed.append([])
            passed[-1] += [frame for frame, known in zip(window, labelled, strict=True) if known]
            assert batch["index"][row] == window[0]
        whole = [list(range(0, 7)), list(range(7, 10)), list(range(10, 14)), [14]]
        assert all(clip in whole for clip in passed[:-1])
        assert any(passed[-1] == clip[: len(passed[-1])] for clip in whole), "the last one may be cut off by the end"


def test_every_clip_is_read_once_an_epoch():
    plan = clips.carried_plan([3, 1, 2, 1, 5], rows=2, steps=60, seed=3)
    passages = {int(passage): int(clip) for clip, _, passage in plan.reshape(-1, 3)}
    for epoch in range(4):
        assert {passages[5 * epoch + place] for place in range(5)} == set(range(5))
    orders = [tuple(passages[5 * epoch + place] for place in range(5)) for epoch in range(4)]
    assert len(set(orders)) > 1


def test_one_passage_has_one_set_of_random_numbers():
    def transform(example, rng):
        return {**plain(example), "label": np.full_like(example["label"], rng.integers(0, 200))}

    batches = carried(9, 9, transform=transform)
    draws = [int(batches[step]["label"][0, 0, 0, 0]) for step in range(9)]
    resets = [bool(batches[step]["reset"][0]) for step in range(9)]
    assert resets == [True, False, False] * 3
    assert draws[0] == draws[1] == draws[2] and draws[3] == draws[4] == draws[5]
    assert len({draws[0], draws[3], draws[6]}) == 3


def test_processes_and_workers_and_a_late_start_change_nothing():
    whole = carried(5, 6, 7, batch_size=4, stride=2)
    for process in range(2):
        part = carried(5, 6, 7, batch_size=4, stride=2, process_index=process, process_count=2)
        for step in (0, 5, 11):
            for name in ("image", "label", "index", "reset"):
                np.testing.assert_array_equal(part[step][name], whole[step][name][2 * process : 2 * process + 2])
    for step, batch in enumerate(pipeline.iterate(whole, start=7, stop=12)):
        np.testing.assert_array_equal(batch["image"], whole[7 + step]["image"])
    assert isinstance(whole, grain.MapDataset)


@pytest.mark.parametrize(("batch_size", "window"), [(1, 2), (2, 3), (4, 8)])
def test_evaluation_reads_every_frame_once_and_clips_in_their_order(batch_size, window):
    sizes = [(3, 4)] * 5 + [(6, 2)] * 2 + [(3, 4)] * 6
    frames = frames_of(5, 2, 6, sizes=sizes)
    rows = [[] for _ in range(batch_size)]
    seen = []
    for batch in clips.evaluation_clip_batches(frames, plain, batch_size=batch_size, window=window, size_multiple=4):
        assert batch["image"].shape[:2] == (batch_size, window)
        for row in range(batch_size):
            if batch["reset"][row]:
                rows[row] = []
            for column in range(window):
                index = int(batch["index"][row, column])
                if index < 0:
                    assert (batch["label"][row, column] == IGNORE_LABEL).all()
                    assert batch["size"][row, column].tolist() == [0, 0]
                    continue
                height, width = sizes[index]
                assert batch["image"][row, column, 0, 0, 0] == index
                assert (batch["label"][row, column, :height, :width] == 1).all()
                assert (batch["label"][row, column] == 1).sum() == height * width
                assert not rows[row] or rows[row][-1] == index - 1, "the next frame of the same clip"
                assert rows[row] or index in (0, 5, 7)
                rows[row].append(index)
                seen.append(index)
    assert sorted(seen) == list(range(13))


def test_processes_share_the_clips_of_an_evaluation():
    def batches(**options):
        return list(clips.evaluation_clip_batches(frames_of(5, 2, 6, 1), plain, window=2, size_multiple=1, **options))

    whole = batches(batch_size=4)
    parts = [batches(batch_size=4, process_index=process, process_count=2) for process in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([parts[0][step][name], parts[1][step][name]]))
