import dataclasses

import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import find_split, load_archive
from segjax.data.sets import cityscapes
from tests.data.sets import made_files

ARCHIVE = dataclasses.replace(cityscapes.ARCHIVE, counts={})

# Label and instance ids as the benchmark's tools write them, and what they mean here.
#   class without objects; person, two of them; a group of persons; a car; a caravan with an id; void; a pole and its
#   group; a bicycle, a group of bicycles; a train
IDS = np.array([[7, 24, 24, 24, 26, 29, 0, 17, 18, 33, 33, 31]], np.uint8)
INSTANCES = np.array([[7, 24001, 24000, 24, 26000, 29000, 0, 17, 18, 33012, 33, 31000]], np.uint16)
LABEL = [0, 11, 11, 11, 13, 255, 255, 5, 255, 18, 18, 16]
INSTANCE = [255, 1, 0, 255, 2, 255, 255, 255, 255, 4, 255, 3]


def write(root, name="aachen/aachen_000000_000019", split="train", ids=IDS, instances=INSTANCES):
    made_files.image(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", ids.shape)
    made_files.mask(root / "gtFine" / split / f"{name}_gtFine_labelIds.png", ids)
    made_files.mask(root / "gtFine" / split / f"{name}_gtFine_instanceIds.png", instances)


def test_ids_become_classes_and_objects(tmp_path):
    for name in ("bochum/bochum_000000_000313", "aachen/aachen_000001_000019", "aachen/aachen_000000_000019"):
        write(tmp_path / "files", name)
    data = load_archive(ARCHIVE, tmp_path, "train", tmp_path / "files")
    assert list(data.ids) == [
        "aachen/aachen_000000_000019",
        "aachen/aachen_000001_000019",
        "bochum/bochum_000000_000313",
    ]
    example = data.source[2]
    assert example["label"].dtype == example["instance"].dtype == np.uint8
    assert example["label"][0].tolist() == LABEL
    assert example["instance"][0].tolist() == INSTANCE


def test_every_id_of_the_tools_is_a_class_or_unlabelled(tmp_path):
    """Which of the 34 ids are evaluated, by the rows of labels.py that have ignoreInEval False."""
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    ids = np.array([[*range(34), 255]], np.uint8)
    write(tmp_path, ids=ids, instances=ids.astype(np.uint16))
    _, *files = find_split(ARCHIVE, tmp_path, "train")["aachen/aachen_000000_000019"]
    label, instance = cityscapes.read(*files)
    assert label[0, evaluated].tolist() == list(range(19))
    assert (np.delete(label[0], evaluated) == 255).all()
    assert (instance == 255).all()
    things = [cityscapes.INFO.class_names[index] for index in cityscapes.THINGS]
    assert things == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="gtFine_trainvaltest.zip"):
        find_split(ARCHIVE, tmp_path, "val")
    write(tmp_path, "ulm/ulm_0", "val")
    with pytest.raises(ValueError, match="official 500; .* has 1"):
        find_split(cityscapes.ARCHIVE, tmp_path, "val")
    _, label, instance = find_split(ARCHIVE, tmp_path, "val")["ulm/ulm_0"]
    made_files.mask(label, np.full((1, 12), 34))
    with pytest.raises(ValueError, match=r"labelIds.png must hold 0..33, 255 only; it holds \[34\]"):
        cityscapes.read(label, instance)
    made_files.mask(label, IDS[:, :5])
    with pytest.raises(ValueError, match=r"one size; they have \(1, 5\), \(1, 12\)"):
        cityscapes.read(label, instance)
    Image.new("RGB", (12, 1)).save(instance)
    with pytest.raises(ValueError, match="instanceIds.png must hold one class index a pixel"):
        cityscapes.read(label, instance)
    instance.unlink()
    with pytest.raises(FileNotFoundError, match="1 files of cityscapes are missing, .*ulm_0_gtFine_instanceIds.png"):
        find_split(ARCHIVE, tmp_path, "val")
