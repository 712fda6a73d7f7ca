import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import find_split
from segjax.data.sets import oxford_iiit_pet
from tests.data.sets.decoded import decoded, noise, save, uncounted

NAMES = ("beagle_2", "Abyssinian_10", "pug_1", "Bombay_3")
TRIMAP = np.array([[1, 2, 3, 2], [3, 1, 1, 2]], np.uint8)


def write(root):
    kinds = {
        "beagle_2": (Image.fromarray(noise(0, (2, 4, 3))), "JPEG"),
        "Abyssinian_10": (Image.fromarray(noise(1, (2, 4, 4)), "RGBA"), "PNG"),
        "pug_1": (Image.fromarray(noise(2, (2, 4))).convert("P"), "GIF"),
        "Bombay_3": (Image.fromarray(noise(3, (2, 4, 4)), "CMYK"), "JPEG"),
    }
    trimaps = root / "annotations" / "trimaps"
    for name, (image, kind) in kinds.items():
        save(root / "images" / f"{name}.jpg", image, format=kind)
        save(trimaps / f"{name}.png", TRIMAP)
        (trimaps / f"._{name}.png").write_bytes(b"Mac OS X        ")
    lines = [f"{name} 1 1 1" for name in NAMES]
    (root / "annotations" / "trainval.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lines[:3]) + "\n"
    )
    (root / "annotations" / "test.txt").write_text(lines[3] + "\n")


def test_trimaps_become_labels_and_lists_give_the_order(tmp_path):
    write(tmp_path)
    examples = decoded(oxford_iiit_pet.ARCHIVE, tmp_path, "trainval")
    assert tuple(examples) == NAMES[:3]
    test = decoded(oxford_iiit_pet.ARCHIVE, tmp_path, "test")
    assert tuple(test) == NAMES[3:]
    for example in (examples | test).values():
        np.testing.assert_array_equal(example["label"], [[1, 0, 255, 0], [255, 1, 1, 0]])
        assert example["label"].dtype == example["image"].dtype == np.uint8
        assert example["image"].shape == (2, 4, 3)


def test_images_are_read_by_what_they_are(tmp_path):
    write(tmp_path)
    examples = decoded(oxford_iiit_pet.ARCHIVE, tmp_path, "trainval")
    pixels = noise(1, (2, 4, 4)).astype(float)
    alpha = pixels[..., 3:] / 255  # over white
    np.testing.assert_allclose(examples["Abyssinian_10"]["image"], pixels[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    np.testing.assert_array_equal(examples["pug_1"]["image"], np.repeat(noise(2, (2, 4))[..., None], 3, -1))


def test_unexpected_values_counts_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="annotations.tar.gz"):
        find_split(oxford_iiit_pet.ARCHIVE, tmp_path, "test")
    write(tmp_path)
    with pytest.raises(ValueError, match="official 3680; .* has 3"):
        find_split(oxford_iiit_pet.ARCHIVE, tmp_path, "trainval")
    save(tmp_path / "annotations/trimaps/Bombay_3.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(ValueError, match=r"Bombay_3.png must hold 1, 2, 3 only; it holds \[0\]"):
        decoded(oxford_iiit_pet.ARCHIVE, tmp_path, "test")
    (tmp_path / "images/pug_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 files .*pug_1.jpg"):
        find_split(uncounted(oxford_iiit_pet.ARCHIVE), tmp_path, "trainval")
