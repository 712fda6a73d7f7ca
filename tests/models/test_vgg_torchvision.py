"""VGG16 against torchvision, narrow: the full width differs in its counts alone, which test_vgg.py checks."""

import pytest

from segjax.convert.torchvision import VGG16, VGG16_BN
from segjax.models.backbones.vgg import VGG16Classifier
from tests.models.variables import random_image
from tests.references import pytorch
from tests.references.pytorch import assert_close, fast_jit, nchw, nhwc, torch


def narrow(batch_norm, width=4, hidden=6, classes=3, pooled=2):
    """torchvision's VGG16 of fewer channels; its classifier reads pool5 of pooled x pooled pixels."""
    vgg = pytorch.library("torchvision").models.vgg
    channels = [layer if layer == "M" else layer * width // 64 for layer in vgg.cfgs["D"]]
    features = 8 * width * pooled**2
    sizes = zip((features, hidden, hidden), (hidden, hidden, classes), strict=True)
    linear = [torch.nn.Linear(*size) for size in sizes]
    classifier = [
        linear[0],
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        linear[1],
        torch.nn.ReLU(),
        torch.nn.Dropout(),
        linear[2],
    ]
    parts = dict(features=vgg.make_layers(channels, batch_norm), classifier=torch.nn.Sequential(*classifier))
    return pytorch.randomised(torch.nn.ModuleDict(parts)).eval()


@pytest.mark.parametrize("batch_norm, rules", [(False, VGG16), (True, VGG16_BN)])
def test_features_and_logits_equal_torchvision(batch_norm, rules):
    theirs = narrow(batch_norm)
    ours = VGG16Classifier(num_classes=3, width=4, fc_channels=6, batch_norm=batch_norm, dropout=0.0)
    image = random_image((2, 64, 75, 3))
    variables = pytorch.converted(theirs, ours, rules, image.shape)
    logits, inner = fast_jit(
        lambda v, x: ours.apply(v, x, capture_intermediates=lambda module, _: module.name == "backbone")
    )(variables, image)
    features = inner["intermediates"]["backbone"]["__call__"][0]
    with torch.no_grad():
        x, poolings = nchw(image), []
        for module in theirs.features:
            x = module(x)
            if isinstance(module, torch.nn.MaxPool2d):
                poolings.append(x)
        for pooled, expected in zip(features.values(), poolings, strict=True):
            assert_close(pooled, nhwc(expected))
        assert_close(logits, theirs.classifier(x.flatten(1)))


def test_logits_in_training_equal_torchvision_although_it_has_a_bias_more():
    theirs = narrow(batch_norm=True)
    ours = VGG16Classifier(num_classes=3, width=4, fc_channels=6, batch_norm=True, dropout=0.0)
    image = random_image((2, 64, 64, 3))
    variables = pytorch.converted(theirs, ours, VGG16_BN, image.shape)
    logits, _ = fast_jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))(variables, image)
    theirs.features.train()  # without the classifier's dropout
    with torch.no_grad():
        assert_close(logits, theirs.classifier(theirs.features(nchw(image)).flatten(1)))
