"""Prediction on files of every size and mode, with bad ones among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax import predict
from segjax.core import sharding
from segjax.data.sets import digits
from tests.process import SMALL, run


def test_images_of_any_size_and_mode_and_a_bad_one(trained, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "rgb.png")
    Image.fromarray(pixels).convert("L").save(folder / "grey.jpg")
    Image.fromarray(pixels).convert("RGBA").save(folder / "sub" / "rgba.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(pixels[:1, :1]).save(folder / "dot.webp")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(pixels).save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(pixels).save(folder / "grey.png")  # the same name as grey.jpg but for the suffix
    (folder / "broken.png").write_bytes((folder / "rgb.png").read_bytes()[:200])

    output = run("predict", f"--workdir={trained[0]}", f"--input={folder}", f"--output={tmp_path / 'out'}", status=1)
    assert "7 of 8 images are predicted" in output
    assert "broken.png" in output
    assert "Traceback" not in output
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    names = ["rgb", "grey_jpg", "grey_png", "sub/rgba", "sixteen", "dot", "rotated"]
    assert made == {f"{name}{end}.png" for name in names for end in ("", "_overlay")}
    sizes = {name: Image.open(tmp_path / "out" / f"{name}.png").size for name in names}
    assert sizes.pop("dot") == (1, 1)
    assert sizes.pop("rotated") == (37, 53)
    assert set(sizes.values()) == {(53, 37)}
    label_map = Image.open(tmp_path / "out" / "rgb.png")
    assert label_map.mode == "P"
    assert np.asarray(label_map).max() < 11
    palette = np.array(label_map.getpalette()[:33]).reshape(11, 3)
    np.testing.assert_array_equal(palette, digits.PALETTE)
    assert Image.open(tmp_path / "out" / "rgb_overlay.png").size[1] > 37


def test_a_glob_and_a_single_file(trained, tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    run("predict", f"--workdir={trained[0]}", f"--input={tmp_path}/[ab].png", f"--output={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").iterdir())) == 4
    run(
        "predict",
        f"--workdir={trained[0]}",
        f"--input={tmp_path}/a.png",
        "--size=32x32",
        f"--output={tmp_path / 'one'}",
    )
    assert Image.open(tmp_path / "one" / "a.png").size == (20, 10)


def test_inputs_are_never_overwritten(trained, tmp_path):
    Image.new("RGB", (20, 10), (9, 9, 9)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    output = run("predict", f"--workdir={trained[0]}", f"--input={tmp_path}", f"--output={tmp_path}", status=1)
    assert "each result must be a new file" in output
    assert (tmp_path / "a.png").read_bytes() == before


def test_nothing_to_predict_is_an_error(trained, tmp_path):
    output = run("predict", f"--workdir={trained[0]}", f"--input={tmp_path}/*.png", f"--output={tmp_path}", status=1)
    assert "gives none" in output


def test_parse_size():
    assert predict.parse_size("360x480") == (360, 480)
    assert predict.parse_size(None) is None
    assert predict.parse_size(None, (18, 24)) == (18, 24)
    assert predict.parse_size("native", (18, 24)) is None
    for wrong in ("360", "0x5", "axb", "1x2x3"):
        with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
            predict.parse_size(wrong)


@pytest.mark.parametrize("parts", [1, 4])
def test_padding_does_not_reach_the_label_map(parts):
    """A network sees zeros around an image, the mean after normalisation, whatever is filled up."""

    def probabilities(variables, image):
        around = jax.lax.reduce_window(image[..., :1], 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        return (jnp.where(around > 0, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])),)

    image = np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    mesh = sharding.make_mesh(1, 1, parts)
    maps = predict.build_maps(probabilities, (128.0,) * 3, (50.0,) * 3, 1 if parts > 1 else 32, mesh=mesh)
    surrounded = np.pad(image[..., 0] - 128.0, 1)
    expected = sum(surrounded[i : i + 13, j : j + 9] for i in range(3) for j in range(3)) <= 0
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(maps({}, image)[0], expected)


def test_the_network_is_compiled_once_for_its_size():
    seen = []

    def probabilities(variables, image):
        seen.append(image.shape)
        return (jax.nn.softmax(image),)

    maps = predict.build_maps(probabilities, (0.0,) * 3, (1.0,) * 3, 1, (16, 12))
    for size in ((20, 30), (21, 30), (9, 5)):
        image = np.zeros((*size, 3), np.uint8)
        assert maps({}, image)[0].shape == size
    assert seen == [(1, 16, 12, 3)]


@pytest.mark.parametrize("size", [None, (8, 8)])
def test_a_network_that_gives_nan_is_an_error(size):
    def probabilities(variables, image):
        return (jnp.stack([image[..., 0], 1 / image[..., 1]], -1),)

    maps = predict.build_maps(probabilities, (0.0,) * 3, (1.0,) * 3, 1, size)
    image = np.ones((8, 8, 3), np.uint8)
    assert maps({}, image)[0].max() < 2
    image[3, 4] = 0
    with pytest.raises(ValueError, match="probabilities must be finite; 1 of 64 pixels have none"):
        maps({}, image)

    step = predict.build_stream(
        lambda variables, states, image, reset: (*probabilities(variables, image[:, 0]), states),
        lambda variables, image: {},
        (0.0,) * 3,
        (1.0,) * 3,
        size=size,
    )
    frames = predict.stream(step, {}, [np.ones((8, 8, 3), np.uint8), image, np.ones((8, 8, 3), np.uint8)])
    assert next(frames)[1].max() < 2
    with pytest.raises(ValueError, match="finite; of frame 1 1 of 64 pixels"):
        next(frames)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("size", [None, (26, 18)])
def test_further_maps_have_the_size_of_the_image(size, parts):
    def predicted(variables, image):
        return np.array([1.0, 0.0]) * image[..., :1], image[..., 1], image[..., 2]

    image = np.full((13, 9, 3), (0, 50, 100), np.uint8)
    mesh = sharding.make_mesh(1, 1, parts)
    maps = predict.build_maps(predicted, (0.0,) * 3, (100.0,) * 3, 32, size, channel_order="bgr", mesh=mesh)({}, image)
    assert [array.shape for array in maps] == [(13, 9)] * 3
    np.testing.assert_allclose(maps[1:], [np.full((13, 9), 0.5), np.zeros((13, 9))])


def test_nats_fill_sixteen_bits(tmp_path):
    predict.write_nats(tmp_path / "a.png", np.log(8) * np.array([[0, 0.5, 1.0]], np.float32), 8)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[0, 32768, 65535]])


def test_sampling_a_model_without_dropout_is_an_error(trained, tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    arguments = [f"--workdir={trained[0]}", f"--input={tmp_path}/a.png", f"--output={tmp_path / 'out'}"]
    output = run("predict", *arguments, "--samples=2", status=1)
    assert "sampling needs a model with dropout" in output and "UNet" in output


def test_attention_of_a_model_without_any_is_an_error(trained, tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    arguments = [f"--workdir={trained[0]}", f"--input={tmp_path}/a.png", f"--output={tmp_path / 'out'}"]
    output = run("predict", *arguments, "--attention=3,4", status=1)
    assert "UNet as configured has no attention" in output


def test_parse_pixel():
    assert predict.parse_pixel(None) is None
    assert predict.parse_pixel("120, 200") == (120, 200)
    for wrong in ("120", "1,2,3", "a,b", "-1,2"):
        with pytest.raises(ValueError, match="ROW,COLUMN"):
            predict.parse_pixel(wrong)


def test_a_sheet_has_a_panel_for_each_map_in_the_order_of_numbers():
    seen = []

    def view(variables, image, place):
        seen.append(image.shape)
        return {f"block{k}": jnp.zeros((2, 2)).at[place[0].astype(int), 0].set(k) for k in (10, 2, 1, 3, 4)}

    draw = predict.build_attention_sheet(view, (0.0,) * 3, (1.0,) * 3, size=(8, 16))
    image = np.full((20, 40, 3), 77, np.uint8)
    sheet = draw({}, image, (19, 39))
    assert seen == [(1, 8, 16, 3)]
    assert sheet.shape == (2 * (20 + 20) + 4, 4 * 40 + 3 * 4, 3)
    with pytest.raises(ValueError, match=r"a pixel of the image, which has \(20, 40\); received \(20, 0\)"):
        draw({}, image, (20, 0))


def test_samples_of_a_model_with_dropout_give_two_maps_more(trained, prepared_dir, tmp_path):
    """On the weights of a U-Net that was trained without dropout: it has no parameters."""
    Image.new("RGB", (20, 10), (200, 10, 10)).save(tmp_path / "a.png")
    small = [argument for argument in SMALL if argument.startswith(("--config=", "--config.model"))]
    run(
        "predict",
        *small,
        "--config.model.dropout=0.5",
        f"--config.data.dir={prepared_dir}",
        f"--config.init.path={trained[0]}",
        f"--input={tmp_path}/a.png",
        f"--output={tmp_path / 'out'}",
        "--samples=3",
    )
    entropy, information = (
        np.asarray(Image.open(tmp_path / "out" / f"a_{name}.png")) for name in ("entropy", "mutual_information")
    )
    assert entropy.shape == information.shape == (10, 20) and entropy.dtype == np.uint16
    assert (information <= entropy + 1).all() and information.any()
