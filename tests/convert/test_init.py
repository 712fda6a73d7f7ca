"""What becomes of each key of a foreign file, in training and in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import convert
from segjax.convert import SOURCES, place_weights, read_weights, rules_of
from segjax.convert.mapping import Rule
from segjax.convert.mapping import convert as apply_rules
from segjax.core import config as config_lib
from segjax.models import build_model
from segjax.models.backbones import build_backbone
from tests.models.variables import random_image, shapes_of
from tests.references.pytorch import (
    assert_close,
    fast_jit,
    library,
    nchw,
    nested,
    nhwc,
    randomised,
    state_arrays,
    torch,
)


def test_the_config_knows_the_sources():
    assert set(config_lib.INIT_SOURCES) == set(SOURCES)


TARGET = {
    "params/backbone/conv1/conv/kernel": jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32),
    "params/backbone/conv1/norm/scale": jax.ShapeDtypeStruct((4,), jnp.float32),
    "params/backbone/conv1/norm/bias": jax.ShapeDtypeStruct((4,), jnp.float32),
    "batch_stats/backbone/conv1/norm/mean": jax.ShapeDtypeStruct((4,), jnp.float32),
    "batch_stats/backbone/conv1/norm/var": jax.ShapeDtypeStruct((4,), jnp.float32),
    "params/head/kernel": jax.ShapeDtypeStruct((1, 1, 4, 5), jnp.float32),
    "params/head/bias": jax.ShapeDtypeStruct((5,), jnp.float32),
}


def arrays(prefix="backbone.", classes=5, **more):
    rng = np.random.default_rng(0)
    shapes = {f"{prefix}conv1.weight": (4, 2, 3, 3), f"{prefix}bn1.num_batches_tracked": ()}
    shapes |= {f"{prefix}bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    head = "fc" if not prefix else "classifier"
    shapes |= {f"{head}.weight": (classes, 4, 1, 1)[: 4 if prefix else 2], f"{head}.bias": (classes,)}
    return {key: rng.normal(size=shape) for key, shape in (shapes | more).items()}


@pytest.fixture(autouse=True)
def rules(monkeypatch):
    own = (
        Rule(r"(?:backbone\.)?conv1", "backbone/conv1/conv"),
        Rule(r"(?:backbone\.)?bn1", "backbone/conv1/norm"),
        Rule(r"classifier", "head"),
    )
    monkeypatch.setitem(SOURCES["torchvision"], "tiny", own)


def place(file, training, source="torchvision", **options):
    return place_weights(file, source, TARGET, model="tiny", num_classes=5, training=training, **options)


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_file_fills_every_variable(training):
    file = arrays()
    found, report = place(file, training, origin="x.pth", notes=("a note",))
    assert found.keys() == TARGET.keys()
    assert not report.fresh
    np.testing.assert_array_equal(
        found["params/backbone/conv1/conv/kernel"],
        file["backbone.conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32),
    )
    assert {str(array.dtype) for array in found.values()} == {"float32"}
    assert report.summary().startswith("weights of torchvision from x.pth: 7 of 7 variables loaded\n  a note\n")
    for key in file:
        assert key in report.text()
    assert "backbone.bn1.num_batches_tracked: a counter" in report.text()


def test_a_head_for_other_classes_starts_anew_in_training_only():
    found, report = place(arrays(classes=21), True)
    assert TARGET.keys() - found.keys() == {"params/head/kernel", "params/head/bias"}
    assert ("params/head/kernel", "for 5 classes, not 21: starts anew") in report.fresh
    line = "not from the file: params/head/kernel, params/head/bias (for 5 classes, not 21: starts anew)"
    assert line in report.summary()
    with pytest.raises(ValueError, match=r"classifier.weight: \[1, 1, 4, 21\] in the file, \[1, 1, 4, 5\] needed"):
        place(arrays(classes=21), False)


def test_only_the_last_dimension_may_differ():
    file = arrays()
    file["classifier.weight"] = np.zeros((21, 3, 1, 1))
    file["backbone.bn1.bias"] = np.zeros(6)
    with pytest.raises(ValueError, match="needed") as error:
        place(file, True)
    assert "classifier.weight: [1, 1, 3, 21] in the file, [1, 1, 4, 5] needed" in str(error.value)
    assert "backbone.bn1.bias: [6] in the file, [4] needed" in str(error.value)


def test_a_classifier_fills_the_backbone_in_training_only():
    found, report = place(arrays("", classes=1000), True)
    assert {path for path in TARGET if "backbone" in path} == found.keys()
    assert ("params/head/kernel", "the file is of a classifier: the rest starts anew") in report.fresh
    assert ("fc.weight", "of the classifier") in report.left_out
    assert "the file is of a classifier" in report.summary()
    with pytest.raises(ValueError, match="can start a training but not be evaluated"):
        place(arrays("", classes=1000), False)


def test_a_backbone_must_be_there_as_a_whole():
    file = arrays("", classes=1000)
    del file["bn1.weight"]
    with pytest.raises(ValueError, match="params/backbone/conv1/norm/scale: not in the file"):
        place(file, True)


@pytest.mark.parametrize("training", [True, False])
def test_what_may_be_missing_or_unused_must_be_asked_for(training):
    file = arrays(**{"aux.weight": (3,), "backbone.bn1.extra": (1,)})
    del file["classifier.bias"]
    with pytest.raises(ValueError, match="params/head/bias: not in the file") as error:
        place(file, training)
    assert "aux.weight: only in the file" in str(error.value)
    assert "backbone.bn1.extra: only in the file" in str(error.value)
    assert "config.init.allow_missing" in str(error.value)
    with pytest.raises(ValueError, match=r"backbone.bn1.extra") as error:
        place(file, training, allow_missing="head/bias$", allow_unused="^aux")
    assert "aux.weight" not in str(error.value)
    found, report = place(file, training, allow_missing="head/bias$", allow_unused=r"^aux|\.extra$")
    assert TARGET.keys() - found.keys() == {"params/head/bias"}
    assert report.fresh == (("params/head/bias", f"missing, as allowed: {'starts anew' if training else 'is zero'}"),)
    assert ("aux.weight", "only in the file, as allowed") in report.left_out
    file["classifier.bias"] = np.zeros(7)
    assert "params/head/bias" not in place(file, False, allow_missing="head/bias", allow_unused=r"aux|\.extra")[0]


def test_problems_are_listed_to_twenty_and_counted():
    with pytest.raises(ValueError, match="and 13 more") as error:
        place(arrays(**{f"x{index}.weight": (2,) for index in range(33)}), True)
    assert str(error.value).count("only in the file") == 20


def test_a_file_that_does_not_fit_at_all_is_an_error_whatever_is_allowed():
    with pytest.raises(ValueError, match="0 of its 1 keys fit"):
        place({"y.weight": np.zeros(2)}, True, allow_missing=".", allow_unused=".")


def test_unknown_sources_and_models_are_explained():
    with pytest.raises(ValueError, match="'torchvison' is unknown; did you mean 'torchvision'"):
        place(arrays(), True, source="torchvison")
    with pytest.raises(ValueError, match="espnet must have the model 'tiny'.*rules for: espnet"):
        place(arrays(), True, source="espnet")
    assert rules_of("torchvision", "none of theirs", "resnet50") == convert.torchvision.RESNET


def test_our_own_names_need_no_rules():
    file = {path: np.full(leaf.shape, 2.0) for path, leaf in TARGET.items()}
    found, report = place(file, False, source="segjax")
    assert found.keys() == TARGET.keys()
    assert found["params/head/bias"].dtype == np.float32
    file["params/head/bias"] = np.zeros(3)
    file["params/head/kernel"] = np.zeros((1, 1, 4, 3))
    found, report = place(file, True, source="segjax")
    assert {path for path, _ in report.fresh} == {"params/head/bias", "params/head/kernel"}
    file["other"] = np.zeros(1)
    del file["params/backbone/conv1/norm/scale"]
    with pytest.raises(ValueError, match="needed") as error:
        place(file, False, source="segjax")
    assert "other: only in the file" in str(error.value)
    assert "params/backbone/conv1/norm/scale: not in the file" in str(error.value)


def test_two_keys_for_one_variable_are_an_error():
    with pytest.raises(ValueError, match="conv1.weight: params/backbone/conv1/conv/kernel is loaded already"):
        place(arrays(**{"conv1.weight": (4, 2, 3, 3)}), True)


def test_a_bias_before_a_normalisation_is_folded_and_said():
    file = arrays(**{"backbone.conv1.bias": (4,)})
    found, report = place(file, False)
    expected = file["backbone.bn1.running_mean"] - file["backbone.conv1.bias"]
    np.testing.assert_allclose(found["batch_stats/backbone/conv1/norm/mean"], expected, rtol=1e-6)
    assert report.report.folded == (("backbone.conv1.bias", "batch_stats/backbone/conv1/norm/mean"),)
    assert "1 biases subtracted from the means that follow them" in report.summary()
    del file["backbone.bn1.running_mean"]
    with pytest.raises(ValueError, match="from which it is to be subtracted"):
        place(file, True, allow_missing="mean")


CLASSIFIERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg16_bn", "densenet121"]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_classifiers_fill_our_backbones(source, name):
    if source == "timm":
        module = library("timm").create_model(name)
    else:
        module = getattr(library("torchvision").models, name)(weights=None)
    target = shapes_of(build_backbone(name), "backbone")
    target["params/own_head/kernel"] = jax.ShapeDtypeStruct((1, 1, 8, 5), jnp.float32)
    options = dict(model="a model of ours", backbone=name, num_classes=5)
    found, report = place_weights(state_arrays(module), source, target, training=True, **options)
    assert found.keys() == target.keys() - {"params/own_head/kernel"}
    assert all("classifier" in why or "counter" in why or "left out" in why for _, why in report.left_out)
    # 13 biases of vgg16_bn's convolutions; nothing else is changed but in its layout.
    assert len(report.report.folded) == 13 * (name == "vgg16_bn")


def test_a_resnet_of_another_depth_is_refused():
    module = library("torchvision").models.resnet34(weights=None)
    target = shapes_of(build_backbone("resnet18"), "backbone")
    options = dict(model="x", backbone="resnet18", num_classes=5, training=True)
    with pytest.raises(ValueError, match="the model has no backbone/layer"):
        place_weights(state_arrays(module), "torchvision", target, **options)


def test_fully_connected_layers_of_vgg_become_convolutions_of_fcn(tmp_path):
    module = library("torchvision").models.vgg16(weights=None)
    module.classifier = torch.nn.Sequential(
        torch.nn.Linear(512 * 49, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 8), torch.nn.ReLU()
    )
    torch.save(randomised(module).state_dict(), tmp_path / "vgg16.pth")
    model = build_model("fcn", num_classes=5, fc_channels=8)
    options = dict(model="fcn", backbone="vgg16", num_classes=5, training=True)
    arrays, notes = read_weights(tmp_path / "vgg16.pth")
    found, report = place_weights(arrays, "torchvision", shapes_of(model), notes=notes, **options)
    assert {key for key, _ in report.report.reshaped} == {"classifier.0.weight", "classifier.3.weight"}
    assert {path.split("/")[1] for path, _ in report.fresh} >= {"score_fc7", "upscore_pool4"}
    x = random_image((2, 7, 7, 512))
    ours = jnp.einsum("nhwc,hwco->no", x, found["params/fc6/conv/kernel"]) + found["params/fc6/conv/bias"]
    assert_close(ours, module.classifier[0](nchw(x).flatten(1)).detach())


def test_vgg16_bn_gives_the_features_of_torchvision():
    module = randomised(library("torchvision").models.vgg16_bn(weights=None).features)
    model = build_backbone("vgg16_bn")
    file = {f"features.{key}": array for key, array in state_arrays(module).items()}
    target = shapes_of(model, "backbone")
    found, report = apply_rules(file, target, rules_of("torchvision", "", "vgg16_bn"))
    assert not report.missing and len(report.folded) == 13
    variables = nested({path.replace("/backbone", ""): array for path, array in found.items()})
    image = random_image((2, 33, 40, 3))
    with torch.no_grad():
        theirs = nhwc(module.eval()(nchw(image)))
    assert_close(fast_jit(model.apply)(variables, image)[32], theirs)


NETWORKS = {
    "fcn_resnet": ("torchvision", "fcn_resnet50", dict(backbone="resnet50")),
    "lraspp": ("torchvision", "lraspp_mobilenet_v3_large", dict()),
    "unet_resnet": ("smp", "Unet", dict(backbone="resnet34")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_can_be_evaluated(name):
    source, theirs, fields = NETWORKS[name]
    if source == "smp":
        make = getattr(library("segmentation_models_pytorch"), theirs)
        module = make(fields["backbone"], encoder_weights=None, classes=21)
    else:
        make = getattr(library("torchvision").models.segmentation, theirs)
        module = make(weights=None, weights_backbone=None, num_classes=21)
    target = shapes_of(build_model(name, num_classes=21, **fields))
    unused = {path for path in target if "auxiliary" in path and "aux_classifier" not in str(module)}
    options = dict(model=name, num_classes=21, training=False, allow_missing="/auxiliary_head/" if unused else "")
    found, report = place_weights(state_arrays(module), source, target, **options)
    assert found.keys() == target.keys() - unused
    assert all("counter" in why for _, why in report.left_out)


def test_a_network_alone_below_a_crf():
    fields = dict(width=1, fc_channels=4, batch_norm=True)
    network = {"name": "fcn", **fields}
    target = shapes_of(build_model("crf_rnn", num_classes=5, network=network))
    rng = np.random.default_rng(0)
    file = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in shapes_of(build_model("fcn", num_classes=5, **fields)).items()
    }
    options = dict(model="fcn", backbone="vgg16_bn", num_classes=5)
    found, report = convert.place_weights_below(file, "segjax", target, "network", **options)
    assert set(found) == {path for path in target if "/network/" in path}
    for path, array in file.items():
        collection, rest = path.split("/", 1)
        np.testing.assert_array_equal(found[f"{collection}/network/{rest}"], array)
    crf = {"params/bilateral_weight", "params/spatial_weight", "params/compatibility"}
    assert {path for path, _ in report.fresh} == crf and set(target) == crf | set(found)
    assert "the file is of the network alone: the rest starts anew" in report.summary()
    assert ("params/score_fc7/kernel", "params/network/score_fc7/kernel") in report.report.loaded
    with pytest.raises(ValueError, match="not in the file"):
        convert.place_weights_below({"params/score_fc7/bias": np.zeros(5)}, "segjax", target, "network", **options)
