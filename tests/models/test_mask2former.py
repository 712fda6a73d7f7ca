"""Mask2Former against transformers' Mask2FormerForUniversalSegmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.read import read_weights
from segjax.convert.transformers_mask2former import MASK2FORMER
from segjax.core.batch import ATTENTION
from segjax.models import build_model, count_params
from segjax.models.mask2former import VARIANTS, mask_bias, semantic_logits
from segjax.training.state import named_leaves
from tests.models.hierarchical import STAGES, shapes_of
from tests.models.variables import fast_jit, random_image, random_variables

DECODERS = dict(hidden=32, queries=5, encoder_layers=1, decoder_layers=4, heads=4, encoder_ffn=16, decoder_ffn=24)
SMALL = {
    "resnet": dict(DECODERS, backbone="resnet18", width=8),
    "swin": dict(DECODERS, backbone="swin_tiny", width=8, depths=(1, 1, 1, 1), head_dim=4, window=3, drop_path=0.0),
}


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def network(reference, kind, small=True, layers=4, **fields):
    """transformers' network; without the norm of Swin's classifier, which nothing reads."""
    transformers = reference.library("transformers")
    sizes = {}
    if small:
        sizes["resnet"] = dict(depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[8, 16, 32, 64], embedding_size=8)
        sizes["swin"] = dict(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[2, 4, 8, 16], window_size=3)
        fields |= dict(feature_size=32, mask_feature_size=32, hidden_dim=32, num_attention_heads=4, num_queries=5)
        # One more than there are, as the authors count them.
        fields |= dict(encoder_layers=1, decoder_layers=layers + 1, encoder_feedforward_dim=16, dim_feedforward=24)
    name = {"resnet": "ResNetConfig", "swin": "SwinConfig"}[kind]
    backbone = getattr(transformers, name)(out_features=STAGES, **sizes.get(kind, {}))
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **fields)
    module = transformers.Mask2FormerForUniversalSegmentation(config)
    if kind == "swin":
        module.model.pixel_level_module.encoder.swin.layernorm = reference.torch.nn.Identity()
    return module


def predictions(module, image):
    """Class and mask logits of each layer."""
    output = module(image, output_auxiliary_logits=True)
    layers = [tuple(one.values()) for one in output.auxiliary_logits]
    named = [{tensor.ndim: tensor for tensor in layer} for layer in layers]
    named.append({3: output.class_queries_logits, 4: output.masks_queries_logits})
    return [layer[3] for layer in named], [layer[4] for layer in named]


def assert_same_predictions(reference, ours, theirs):
    for found, expected in zip((ours.class_logits, ours.mask_logits), theirs, strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            reference.assert_close(one, other.detach().numpy())


@pytest.mark.parametrize("kind", SMALL)
def test_every_layers_logits_equal_transformers(reference, kind):
    module = reference.randomised(network(reference, kind, num_labels=3)).eval()
    model = build_model("mask2former", num_classes=3, **SMALL[kind])
    variables = reference.converted(module, model, MASK2FORMER, unused=("criterion",))
    image = random_image((2, 96, 64, 3))
    ours = fast_jit(lambda v, x: model.apply(v, x, method="masks"))(variables, image)
    theirs = predictions(module, reference.nchw(image))
    assert_same_predictions(reference, ours, theirs)
    # Some queries see a part of the image, and one sees nothing and so looks everywhere.
    shares = np.array([(mask.detach().numpy() >= 0).mean((2, 3)) for mask in theirs[1]])
    assert (shares > 0).sum() > shares.size / 2 and shares.max() < 1


def test_training_logits_gradients_and_statistics_equal_transformers(reference):
    from tests.references.gradients import assert_same_gradients, mostly_active

    module = mostly_active(reference.randomised(network(reference, "resnet", layers=2, num_labels=3))).train()
    model = build_model("mask2former", num_classes=3, **dict(SMALL["resnet"], decoder_layers=2))
    variables = reference.converted(module, model, MASK2FORMER, unused=("criterion",))
    image = random_image((2, 64, 96, 3))
    upstream = random_image((2, 5, 4)), random_image((2, 5, 16, 24))

    def loss(params):
        output, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        terms = [(x * upstream[0]).mean() for x in output.class_logits]
        terms += [(x * upstream[1]).mean() for x in output.mask_logits]
        return sum(terms), (output, state)

    gradient, (output, state) = fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = predictions(module, reference.nchw(image))
    assert_same_predictions(reference, output, theirs)
    upstream = [reference.torch.from_numpy(np.array(x)) for x in upstream]
    sum((x * up).mean() for layers, up in zip(theirs, upstream, strict=True) for x in layers).backward()
    assert_same_gradients({"params": gradient}, module, MASK2FORMER)

    means = {path: leaf for path, leaf in named_leaves(state) if path.endswith("mean")}
    expected, _ = convert(reference.state_arrays(module), means, MASK2FORMER)
    assert set(expected) == set(means)
    for path, mean in expected.items():
        reference.assert_close(means[path], mean)


def test_a_query_looks_where_its_mask_is_or_everywhere():
    masks = np.full((1, 4, 4, 3), -1.0, np.float32)
    masks[0, :2, 2:, 1] = 5  # the upper right corner of the second query's mask
    masks[0, 0, 0, 2] = 2.9  # not enough for the pixel of which it is a quarter
    bias = mask_bias(jnp.asarray(masks), (2, 2))
    assert bias.shape == (1, 1, 3, 4)
    np.testing.assert_array_equal(bias[0, 0], [[0] * 4, [-np.inf, 0, -np.inf, -np.inf], [0] * 4])


def test_semantic_logits_equal_transformers(reference):
    """It enlarges the masks to 384x384, which is the image's size here."""
    transformers = reference.library("transformers")
    module = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    classes, masks = 3 * random_image((2, 5, 4)), 3 * random_image((2, 96, 96, 5), seed=2)
    output = module.Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=reference.torch.from_numpy(np.array(classes)),
        masks_queries_logits=reference.nchw(masks),
    )
    processor = transformers.Mask2FormerImageProcessor()
    theirs = processor.post_process_semantic_segmentation(output, [(384, 384)] * 2, return_segmentation_scores=True)
    ours = fast_jit(lambda *args: semantic_logits(*args, (384, 384)))(classes, masks)
    scores = np.stack([one["segmentation_scores"] for one in theirs]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, np.log(scores + 1e-6), atol=1e-4)
    np.testing.assert_array_equal(ours.argmax(-1)[0], theirs[0]["segmentation"])


def test_semantic_logits_are_finite():
    """Where no mask is and every query has the class "no object"."""
    logits = semantic_logits(jnp.full((1, 2, 4), -1e4).at[..., -1].set(1e4), jnp.full((1, 2, 2, 2), -1e4), (7, 5))
    assert logits.shape == (1, 7, 5, 3)
    np.testing.assert_allclose(logits, np.log(1e-6), rtol=1e-6)


def test_other_sizes_are_padded_with_zeros_and_cropped():
    model = build_model("mask2former", num_classes=3, **dict(SMALL["resnet"], decoder_layers=1))
    image = random_image((1, 35, 48, 3))
    whole = jnp.zeros((1, 64, 64, 3)).at[:, :35, :48].set(image)
    variables = random_variables(model, image.shape)
    both = fast_jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="masks")))
    logits, masks = both(variables, image)
    padded_logits, padded_masks = both(variables, whole)
    assert logits.shape == (1, 35, 48, 3) and masks.mask_logits[-1].shape == (1, 5, 9, 12)
    np.testing.assert_allclose(logits, padded_logits[:, :35, :48], rtol=1e-5, atol=1e-5)
    for found, expected in zip(masks.mask_logits, padded_masks.mask_logits, strict=True):
        np.testing.assert_allclose(found, expected[:, :, :9, :12], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
@pytest.mark.parametrize("kind", SMALL)
def test_tiny_images(kind, size):
    model = build_model("mask2former", num_classes=3, **SMALL[kind])
    logits, _ = shapes_of(model, (2, *size, 3))
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


def test_sixteen_bits_are_close():
    """Up to the first masked attention: behind it a mask's border decides, which may fall to the other side."""
    fields = dict(SMALL["resnet"], decoder_layers=1)
    models = [build_model("mask2former", num_classes=3, dtype=dtype, **fields) for dtype in ("float32", "bfloat16")]
    image = random_image((1, 64, 64, 3))
    variables = random_variables(models[0], image.shape)
    exact, found = (fast_jit(lambda v, x, m=m: m.apply(v, x, method="masks"))(variables, image) for m in models)
    for names in ("class_logits", "mask_logits"):
        for one, other in zip(getattr(exact, names), getattr(found, names), strict=True):
            assert other.dtype == jnp.float32
            assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


@pytest.mark.parametrize("attention", [True, False])
def test_maps_of_the_pixels_that_queries_look_at(attention):
    """They add up to 1 and are 0 outside of a mask; without attention they are equal inside."""
    fields = dict(SMALL["resnet"], attention=attention, decoder_layers=3)
    model = build_model("mask2former", num_classes=3, **fields)
    image = random_image((1, 64, 96, 3))
    variables = random_variables(model, image.shape)
    run = fast_jit(lambda v, x: model.apply(v, x, method="masks", mutable=[ATTENTION]))
    output, maps = run(variables, image)
    maps = [maps[ATTENTION][f"decoder{i}"]["cross"]["pixels"] for i in range(3)]
    sizes = [(2, 3), (4, 6), (8, 12)]  # levels 32, 16 and 8
    assert [found.shape for found in maps] == [(1, 4, 5, 1, *size) for size in sizes]
    for found, masks, size in zip(maps, output.mask_logits, sizes, strict=False):
        np.testing.assert_allclose(found.sum((-2, -1)), 1, rtol=1e-5)
        allowed = mask_bias(masks.transpose(0, 2, 3, 1), size).reshape(1, 1, 5, 1, *size) == 0
        if attention:
            assert not np.any(np.where(allowed, 0, found))
        else:
            np.testing.assert_allclose(found, (allowed / allowed.sum((-2, -1), keepdims=True)).repeat(4, 1), rtol=1e-5)


def test_dropout_in_training_only():
    model = build_model("mask2former", num_classes=3, **dict(SMALL["resnet"], dropout=0.5, decoder_layers=1))
    image = random_image((1, 32, 32, 3))
    variables = random_variables(model, image.shape)
    run = fast_jit(lambda v, x, key: model.apply(v, x, train=True, rngs={"dropout": key}))
    one, other = (run(variables, image, jax.random.key(i)) for i in (1, 2))
    assert np.abs(one.mask_logits[-1] - other.mask_logits[-1]).max() > 1e-3
    jax.eval_shape(model.apply, variables, image)  # needs no rng


@pytest.mark.parametrize("kind, variant, millions", [("resnet", "resnet50", 44), ("swin", "swin-tiny", 47)])
def test_number_of_parameters_is_that_of_the_published_networks(reference, kind, variant, millions):
    """In millions those of the paper's table of ADE20K; exactly, what transformers makes."""
    reference.library("transformers")
    with reference.torch.device("meta"):
        module = network(reference, kind, small=False, num_labels=150)
    theirs = sum(parameter.numel() for parameter in module.parameters())
    ours = count_params(shapes_of(build_model("mask2former", num_classes=150, **VARIANTS[variant]))[1])
    assert ours == theirs and round(ours / 1e6) == millions


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
    output, _ = shapes_of(build_model("mask2former", num_classes=19, **VARIANTS[variant]), train=True)
    assert len(output.class_logits) == len(output.mask_logits) == 10
    assert output.class_logits[0].shape == (1, 100, 20) and output.mask_logits[-1].shape == (1, 100, 16, 16)


def test_names_of_published_files(reference, tmp_path):
    """transformers writes files under the names that facebook's have."""
    network(reference, "swin", num_labels=3).save_pretrained(tmp_path)
    arrays = dict(read_weights(tmp_path / "model.safetensors")[0])
    block = "model.pixel_level_module.encoder.encoder.layers.1.blocks.0.attention.self"
    assert f"{block}.query.weight" in arrays and f"{block}.relative_position_bias_table" in arrays
    target = dict(named_leaves(shapes_of(build_model("mask2former", num_classes=3, **SMALL["swin"]))[1]))
    found, report = convert(arrays, target, MASK2FORMER)
    assert set(found) == set(target)
    assert not report.unknown and not report.mismatched and not report.unused


def test_start_of_training_is_transformers(reference):
    """The spread of what both draw from Xavier's and PyTorch's own distributions, and what begins as a constant."""
    module = network(reference, "resnet", layers=1, num_labels=3)
    model = build_model("mask2former", num_classes=3, **dict(SMALL["resnet"], decoder_layers=1))
    variables = fast_jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3))))(jax.random.key(0))
    ours = dict(named_leaves({"params": variables["params"]}))
    theirs, _ = convert(reference.state_arrays(module), ours, MASK2FORMER)
    drawn = ("cross/", "self/", "mask1/", "mask2/", "mask3/", "decoder0/ffn/fc", "attention/", "embedding")
    paths = [path for path in ours if any(part in path for part in drawn) and not path.endswith("bias")]
    assert len(paths) > 15
    for path in paths:
        # The authors' attention among queries is PyTorch's, as that to pixels is here, with another bound than this.
        found, expected = np.std(ours[path]), np.std(theirs[path.replace("/self/", "/cross/")])
        # A sample's spread: of the smallest array, 96 numbers, it is known to a tenth.
        assert np.isclose(found, expected, rtol=0.3 if ours[path].size < 500 else 0.12), (path, found, expected)
    for path in ("pixel_decoder/encoder0/attention/offsets/bias", "decoder0/cross/query/bias"):
        np.testing.assert_allclose(ours[f"params/{path}"], theirs[f"params/{path}"], atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="swin"), "backbone 'swin' is unknown"),
        (dict(backbone="resnet18", window=7), r"resnet18 has no window to be set; received \{'window': 7\}"),
        (dict(hidden=48), "hidden that is a multiple of 32 and of heads.*'hidden': 48"),
        (dict(hidden=96, heads=7), "hidden that is a multiple of 32 and of heads.*'heads': 7"),
        (dict(queries=0), ">= 1.*'queries': 0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("mask2former", num_classes=5, **fields)
