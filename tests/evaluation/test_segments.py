"""From classified masks to panoptic maps and detections, and the scores of predictions that are known."""

import numpy as np
import pytest

from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.evaluation import segments

CLASSES, THINGS = 4, (2, 3)


def sure_of(numbers, probability=0.99):
    """[Q, C + 1]; number CLASSES is "no object"."""
    found = np.full((len(numbers), CLASSES + 1), (1 - probability) / CLASSES, np.float32)
    found[np.arange(len(numbers)), numbers] = probability
    return found


def masks_of(*rows, inside=0.9, outside=0.1):
    """Masks of one row of pixels each: "11..." has its first two inside."""
    return np.array([[[inside if pixel == "1" else outside for pixel in row]] for row in rows], np.float32)


def test_stuff_is_one_segment_and_things_are_apart():
    classes = sure_of([2, 1, 2, 1, CLASSES])
    masks = masks_of("11......", "..11....", "....11..", "......1.", "11111111")
    predicted, index = segments.panoptic_map(classes, masks, THINGS)
    assert predicted.tolist() == [[2, 2, 1, 1, 2, 2, 1, IGNORE_LABEL]]
    assert index[0, 0] == index[0, 1] != index[0, 4] == index[0, 5]
    assert index[0, 2] == index[0, 6] == 0


def test_doubtful_queries_and_hidden_masks_are_left_out():
    masks = masks_of("11......", "11111...", ".......1")
    masks[0] *= 1.05  # in front of the second, of which three fifths are to be seen
    predicted, _ = segments.panoptic_map(sure_of([2, 3, 1]), masks, THINGS)
    assert predicted.tolist() == [[2, 2, *[IGNORE_LABEL] * 5, 1]]
    doubtful = np.concatenate([sure_of([2]), sure_of([3], 0.7)])
    predicted, _ = segments.panoptic_map(doubtful, masks[:2], THINGS)
    assert predicted.tolist() == [[2, 2, *[IGNORE_LABEL] * 6]]
    predicted, index = segments.panoptic_map(sure_of([CLASSES, CLASSES]), masks[:2], THINGS)
    assert (predicted == IGNORE_LABEL).all() and not index.any()


def test_what_is_won_below_one_half_counts_for_being_visible():
    """The authors' panoptic_inference: the pixels that a query wins, in parts of those of its mask."""
    first, second = [0.9] * 7 + [0.6] * 3 + [0.4] * 5, [0.1] * 7 + [0.9] * 3 + [0.1] * 5
    predicted, _ = segments.panoptic_map(sure_of([2, 3]), np.array([[first], [second]], np.float32), THINGS)
    assert predicted.tolist() == [[*[2] * 7, *[3] * 3, *[IGNORE_LABEL] * 5]]  # 7 of 10 surely, 12 in all


def test_detections_are_pairs_of_query_and_thing():
    classes = np.array([[0.1, 0.2, 0.4, 0.3, 0.0], [0.9, 0.0, 0.05, 0.05, 0.0]], np.float32)
    found, numbers, scores = segments.detections(classes, masks_of("11..", "..1.", inside=0.8), THINGS)
    assert numbers.tolist() == [2, 3, 2, 3]
    np.testing.assert_allclose(scores, 0.8 * np.array([0.4, 0.3, 0.05, 0.05]), rtol=1e-6)
    assert found[:, 0].astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    empty, _, _ = segments.detections(classes, np.zeros((2, 1, 4), np.float32), THINGS)
    assert len(empty) == 0


def scene():
    """One image of 1 x 8 pixels in a batch of two, the other of which is padding; two things of class 2, one of 3."""
    label = np.array([[0, 2, 2, 2, 2, 3, IGNORE_LABEL, 1]], np.uint8)
    instance = np.array([[NO_INSTANCE, 0, 0, 4, 4, 1, NO_INSTANCE, NO_INSTANCE]], np.uint8)
    none = np.full((1, 9), IGNORE_LABEL, np.uint8)
    padded = np.concatenate([label, none[:, :1]], 1)
    batch = {
        "image": np.zeros((2, 1, 9, 3), np.float32),
        "label": np.stack([padded, none]),
        "index": np.array([7, -1]),
        "size": np.array([(1, 8), (0, 0)]),
    }
    return batch, label, instance


def scored(masks, numbers, group=()):
    """The scores of sure queries; the objects of the numbers in `group` are a group that nobody told apart."""
    batch, _, instance = scene()
    instance = np.where(np.isin(instance, group), np.uint8(NO_INSTANCE), instance)

    def predict(image):
        masks_and_none = np.stack([masks, np.ones_like(masks)])
        return np.stack([sure_of(numbers)] * 2), np.pad(masks_and_none, ((0, 0), (0, 0), (0, 0), (0, 1)))

    def instance_of(index):
        assert index == 7
        return instance

    return segments.score_segments([batch], predict, instance_of, CLASSES, THINGS)


def test_what_is_all_right_has_full_scores():
    found = scored(masks_of("1.......", ".11.....", "...11...", ".....11.", ".......1"), [0, 2, 2, 3, 1])
    # The fourth mask is one pixel larger where nothing is labelled: panoptic quality passes over it, AP does not know.
    assert found["PQ"] == found["PQ_things"] == found["PQ_stuff"] == found["SQ"] == found["RQ"] == 1
    assert found["AP50"] == 1
    assert 0.5 < found["AP"] < 1


def test_two_things_in_one_mask_are_one_found_in_two():
    found = scored(masks_of("1.......", ".1111...", ".....1..", ".......1"), [0, 2, 3, 1])
    # The mask has an IoU of exactly 1/2 with each of the two: no match, so class 2 has one alone and two missed.
    assert found["PQ_things"] == 0.5 and found["PQ_stuff"] == 1
    assert found["PQ"] == pytest.approx(0.75)
    assert found["AP50"] == pytest.approx((1 + 51 / 101) / 2)  # 1/2 is enough for AP: one of two is found


@pytest.mark.parametrize("found_too", [False, True])
def test_a_group_is_no_object_whether_it_is_found_or_not(found_too):
    """The second thing of class 2 is a group: a detection on it is neither right nor wrong."""
    masks = masks_of("1.......", ".11.....", ".....1..", ".......1", "...11...")
    found = scored(masks[: 4 + found_too], [0, 2, 3, 1, 2][: 4 + found_too], group=(4,))
    assert found["PQ_things"] == found["PQ_stuff"] == found["AP"] == 1


def test_a_detection_counts_by_its_part_outside_of_groups():
    """Two pixels on the object, one on the group: the IoU is 1. One and two: it counts nowhere, the object is missed.

    The mean is over class 2 and class 3, which is found.
    """
    masks = masks_of("1.......", ".111....", ".....1..", ".......1")
    found = scored(masks, [0, 2, 3, 1], group=(4,))
    assert found["PQ_things"] == found["AP"] == 1
    masks[1] = masks_of("..111...")[0]
    found = scored(masks, [0, 2, 3, 1], group=(4,))
    assert found["PQ_things"] == found["AP"] == 0.5
