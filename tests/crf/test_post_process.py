"""The CRF after a network: energies, the file of parameters, and the way back to the image's colours."""

import json

import jax
import numpy as np
import pytest

from segjax.core import sharding
from segjax.core.batch import denormalise
from segjax.crf import CRFParams, mean_field
from segjax.crf.post_process import build_refine, energies, read_parameters
from segjax.data.augment import transforms
from tests.crf.pictures import energies as random_energies
from tests.crf.pictures import photo
from tests.models.variables import fast_jit

SETTINGS = {
    "iterations": 3,
    "bilateral_weight": 4.0,
    "bilateral_sigma_xy": 10.0,
    "bilateral_sigma_rgb": 12.0,
    "spatial_weight": 2.0,
    "spatial_sigma_xy": 1.5,
    "normalization": "after",
}


def test_energies_are_minus_log_p_and_finite():
    np.testing.assert_allclose(energies(np.float32([1.0, 0.5, 0.0])), [0.0, 0.6931472, 16.118095], rtol=1e-6)


def test_refine_is_mean_field_of_the_energies():
    image = photo("coffee", 11, 13)[None]
    probabilities = np.exp(-random_energies(image[0], 4))[None]
    params = CRFParams(4.0, 10.0, 12.0, 2.0, 1.5)
    expected = mean_field(-np.log(probabilities), image, params, iterations=3, normalization="after")
    np.testing.assert_allclose(fast_jit(build_refine(SETTINGS))(probabilities, image), expected, atol=1e-5)
    assert np.abs(expected - probabilities).max() > 0.1


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_denormalise_gives_the_very_colours_back(channel_order):
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    seen = {"mean": (104.3, 117.7, 123.1), "std": (57.1, 1.0, 255.0), "channel_order": channel_order}
    example = transforms.normalise({"image": image, "label": np.zeros((16, 16), np.uint8)}, **seen)
    np.testing.assert_array_equal(denormalise(example["image"], **seen), image)


def test_each_device_refines_its_part():
    assert jax.device_count() == 8
    mesh = sharding.make_mesh(4, 2)
    image = np.stack([photo(name, 7, 9) for name in ("coffee", "chelsea") * 4])
    probabilities = np.exp(-np.stack([random_energies(picture, 3, seed) for seed, picture in enumerate(image)]))
    refine = build_refine({**SETTINGS, "bilateral_filter": "permutohedral"})
    batch = sharding.put_batch(mesh, {"probabilities": probabilities, "image": image})
    lies = sharding.batch_sharding(mesh)
    inputs = batch["probabilities"], batch["image"]
    program = fast_jit(sharding.for_mesh(refine, mesh), in_shardings=(lies, lies)).lower(*inputs).compile()
    assert "all-gather" not in program.as_text()
    split = program(*inputs)
    assert split.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 4)
    np.testing.assert_allclose(split, fast_jit(refine)(probabilities, image), atol=1e-5)


def test_the_file_of_parameters(tmp_path):
    path = tmp_path / "crf.json"
    path.write_text(json.dumps({"crf": SETTINGS, "mIoU": 0.5}))
    assert read_parameters(path) == SETTINGS
    searched = {**SETTINGS, "bilateral_filter": "exact", "spatial_filter": "window"}
    path.write_text(json.dumps({"crf": searched}))
    assert read_parameters(path) == searched


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "can't be read"),
        ("{}", "can't be read: KeyError"),
        (json.dumps({"crf": {**SETTINGS, "bilateral_sigma_xy": 0}}), "sigmas above 0"),
        (json.dumps({"crf": {**SETTINGS, "spatial_weight": -1}}), "weights of 0 or more"),
        (json.dumps({"crf": {**SETTINGS, "iterations": 0}}), "iterations of at least 1"),
        (json.dumps({"crf": {**SETTINGS, "normalization": "both"}}), "normalization among"),
        (json.dumps({"crf": {**SETTINGS, "spatial_weight": "x"}}), "can't be read: ValueError"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    path = tmp_path / "crf.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_parameters(path)
    with pytest.raises(FileNotFoundError, match="must be a file that `segjax.tune_crf` wrote"):
        read_parameters(tmp_path / "none.json")
