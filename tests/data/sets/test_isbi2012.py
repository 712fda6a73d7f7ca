import numpy as np
import pytest
from PIL import Image

from segjax.data.archive import Page, find_split
from segjax.data.images import page_bytes, page_count, read_image, read_indices, read_mask
from segjax.data.sets import isbi2012
from tests.data.sets.decoded import decoded, noise, save


def slices(count=30):
    """Slice k: grey image, and label 1 for membranes."""
    return [(noise(k, (5, 7)), (noise(100 + k, (5, 7)) < 60).astype(np.uint8)) for k in range(count)]


def write_stack(root, pages, cell=255):
    root.mkdir(parents=True, exist_ok=True)
    for name, arrays in (
        ("train-volume", [image for image, _ in pages]),
        ("train-labels", [np.where(label == 1, 0, cell).astype(np.uint8) for _, label in pages]),
    ):
        first, *others = map(Image.fromarray, arrays)
        first.save(root / f"{name}.tif", save_all=True, append_images=others)


def write_folder(root, pages):
    for number, (image, label) in enumerate(pages):
        save(root / "images" / f"{number:02d}.png", image)
        save(root / "masks" / f"{number:02d}.png", label)
    (root / "splits").mkdir()
    for split, chosen in (("train", range(24)), ("val", range(24, 30))):
        (root / "splits" / f"{split}.txt").write_text("".join(f"{number:02d}\n" for number in chosen))


@pytest.mark.parametrize("write", [write_stack, write_folder])
def test_both_layouts_give_the_same_slices(tmp_path, write):
    pages = slices()
    write(tmp_path, pages)
    for split, chosen in {"train": range(24), "val": range(24, 30), "trainval": range(30)}.items():
        assert len(find_split(isbi2012.ARCHIVE, tmp_path, split)) == len(chosen)
        examples = decoded(isbi2012.ARCHIVE, tmp_path, split)
        assert list(examples) == [f"{number:02d}" for number in chosen]
        for number, example in zip(chosen, examples.values(), strict=True):
            image, label = pages[number]
            np.testing.assert_array_equal(example["image"], np.repeat(image[..., None], 3, -1))
            np.testing.assert_array_equal(example["label"], label)
            assert example["label"].dtype == np.uint8


def test_pages_are_as_they_were_written(tmp_path):
    deep = [np.random.default_rng(k).integers(0, 65536, (3, 4)).astype(np.uint16) for k in range(3)]
    first, *others = map(Image.fromarray, deep)
    first.save(tmp_path / "deep.tif", save_all=True, append_images=others)
    assert page_count(tmp_path / "deep.tif") == 3
    for number, page in enumerate(deep):
        np.testing.assert_array_equal(read_indices(page_bytes(tmp_path / "deep.tif", number)), page)
        expected = np.rint(page / 257).astype(np.uint8)
        np.testing.assert_array_equal(read_image(page_bytes(tmp_path / "deep.tif", number))[..., 2], expected)
    bits = Image.fromarray(noise(0, (3, 4)) > 128)
    bits.save(tmp_path / "bits.tif")
    np.testing.assert_array_equal(read_mask(Page(tmp_path / "bits.tif", 0).read_bytes()) > 0, noise(0, (3, 4)) > 128)
    save(tmp_path / "one.png", deep[0].astype(np.uint8))
    assert page_count(tmp_path / "one.png") == 1
    with pytest.raises(ValueError, match=r"page 3 of .*deep.tif"):
        page_bytes(tmp_path / "deep.tif", 3)
    with pytest.raises(FileNotFoundError):
        page_bytes(tmp_path / "none.tif", 0)
    save(tmp_path / "colours.png", noise(0))
    with pytest.raises(ValueError, match="colours.png must hold one class index a pixel"):
        read_indices(tmp_path / "colours.png")
    (tmp_path / "text.tif").write_text("no")
    for read in (page_count, lambda file: page_bytes(file, 0), read_indices):
        with pytest.raises(ValueError, match="text.tif"):
            read(tmp_path / "text.tif")


def test_other_values_other_counts_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-volume.tif.*\n.*(.|\n)*30 pages each"):
        find_split(isbi2012.ARCHIVE, tmp_path, "train")
    write_stack(tmp_path / "few", slices(4))
    with pytest.raises(ValueError, match=r"must have 30 pages each; they have \(4, 4\)"):
        find_split(isbi2012.ARCHIVE, tmp_path / "few", "train")
    write_stack(tmp_path / "values", slices(), cell=254)
    with pytest.raises(ValueError, match=r"must hold 0, 255 only; it holds \[254\]"):
        decoded(isbi2012.ARCHIVE, tmp_path / "values", "val")
    write_folder(tmp_path / "folder", slices())
    (tmp_path / "folder/masks/25.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 files .*25.png"):
        find_split(isbi2012.ARCHIVE, tmp_path / "folder", "val")
    assert len(find_split(isbi2012.ARCHIVE, tmp_path / "folder", "train")) == 24


def test_the_real_slices(data_root, tmp_path):
    """22.0 % of the pixels are stated to be membrane, and membranes are dark."""
    if not (data_root / "isbi2012").is_dir():
        pytest.skip(f"{data_root / 'isbi2012'} is not there")
    data = isbi2012.load(str(tmp_path), "trainval", manual_dir=data_root / "isbi2012")
    examples = [data.source[index] for index in range(len(data))]
    assert {example["label"].shape for example in examples} == {(512, 512)}
    labels = np.stack([example["label"] for example in examples])
    images = np.stack([example["image"][..., 0] for example in examples])
    assert abs(labels.mean() - 0.220) < 0.0005 and set(np.unique(labels)) == {0, 1}
    assert images[labels == 1].mean() < images[labels == 0].mean() - 30
    np.testing.assert_allclose(isbi2012.INFO.mean, images[:24].mean(), atol=0.06)
    np.testing.assert_allclose(isbi2012.INFO.std, images[:24].std(), atol=0.06)
