import dataclasses

import numpy as np
import pytest

from segjax.data.archive import find_split, load_archive
from segjax.data.sets import pascal_context
from tests.data.sets import made_files

SIZE = (4, 6)

# Values of labels.txt in the order of 59_labels.txt, as the PASCAL in Detail API lists them ("eval_orders").
DETAIL_ORDER = [
    *(2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427, 9, 18, 22, 33, 44, 46),
    *(68, 80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259, 260, 105, 296, 355, 295, 324, 326, 349, 354),
    *(360, 366, 19, 415, 420, 424, 440, 445, 454, 458),
]


def write(root, labels="trainval"):
    voc = root / "VOCdevkit" / "VOC2010"
    made_files.lines(voc / "ImageSets" / "Main" / "train.txt", ["2008_b", "2008_a"])
    made_files.lines(voc / "ImageSets" / "Main" / "val.txt", ["2009_c"])
    for name in ("2008_b", "2008_a", "2009_c"):
        made_files.image(voc / "JPEGImages" / f"{name}.jpg", SIZE)
        values = np.full(SIZE, 284, np.uint16)  # person, number 14 of the 59
        values[0] = [0, 1, 431, 459, 2, 458]  # none, accordion, unknown, wool; the first and the last class
        made_files.matlab(root / labels / f"{name}.mat", {"LabelMap": values})


@pytest.mark.parametrize(
    ("archive", "first"),
    [
        (pascal_context.ARCHIVE, [255, 255, 255, 255, 0, 58]),
        (pascal_context.ARCHIVE_60, [0, 0, 0, 0, 1, 59]),
    ],
)
def test_both_forms_read_the_same_files(monkeypatch, tmp_path, archive, first):
    write(tmp_path / "data" / "pascal_context")
    monkeypatch.setenv("SEGJAX_DATA", str(tmp_path / "data"))
    data = load_archive(dataclasses.replace(archive, counts={}), tmp_path, "train")
    assert list(data.ids) == ["2008_b", "2008_a"]
    found = data.source[0]["label"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], first)
    person = data.info.class_names.index("person")
    assert person == 14 + data.info.num_classes - 59
    assert (found[1:] == person).all()


def test_names_belong_to_the_values_of_the_organisers():
    """labels.txt is in the order of the alphabet, so that the names must be too when they are in that of the values."""
    assert list(pascal_context.CLASSES.values()) == DETAIL_ORDER
    by_value = sorted(pascal_context.CLASSES, key=pascal_context.CLASSES.get)
    assert by_value == sorted(by_value)
    assert pascal_context.INFO_60.class_names[1:] == pascal_context.INFO.class_names


def test_labels_may_lie_in_the_folder_of_voc(tmp_path):
    write(tmp_path, "VOCdevkit/VOC2010/trainval")
    archive = dataclasses.replace(pascal_context.ARCHIVE, counts={})
    assert list(find_split(archive, tmp_path, "val")) == ["2009_c"]


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="trainval.tar.gz"):
        find_split(pascal_context.ARCHIVE, tmp_path, "train")
    write(tmp_path)
    with pytest.raises(ValueError, match="official 5105; .* has 1"):
        find_split(pascal_context.ARCHIVE, tmp_path, "val")
    label = tmp_path / "trainval" / "2009_c.mat"
    made_files.matlab(label, {"LabelMap": np.full(SIZE, 460)})
    with pytest.raises(ValueError, match=r"2009_c.mat must hold 0..459 only; it holds \[460\]"):
        pascal_context.read(label)
    label.unlink()
    with pytest.raises(FileNotFoundError, match="1 files of pascal_context are missing, .*2009_c.mat"):
        find_split(dataclasses.replace(pascal_context.ARCHIVE, counts={}), tmp_path, "val")
