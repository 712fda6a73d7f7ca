"""A model that can't learn one batch by heart can't learn anything."""

import jax
import numpy as np
import pytest

from segjax import build
from segjax.core import sharding
from segjax.core.config import default_config
from segjax.data import load_dataset, transforms
from segjax.evaluation import metrics
from segjax.training.step import jit_train_step

MODELS = {
    "unet": dict(width=16, depth=3),
    "fcn": dict(width=16, fc_channels=64, batch_norm=True, dropout=0.0, stride=8),
}
STEPS = {"unet": 100, "fcn": 150}


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_learnt_by_heart(name, prepared_dir, one_device_mesh):
    dataset = load_dataset("digit_scenes", "val", data_dir=str(prepared_dir), size=(64, 64))
    # FCN's finest scores are 8 pixels apart: its labels are blocks that it can draw, two classes in each image.
    examples = [dataset.source[index] for index in range(2)]
    examples = [transforms.normalise(e, mean=dataset.info.mean, std=dataset.info.std) for e in examples]
    batch = {key: np.stack([example[key] for example in examples]) for key in ("image", "label")}
    if name == "fcn":
        batch["label"] = np.repeat(np.repeat(batch["label"][:, 4::32, 4::32], 32, 1), 32, 2)
        batch["label"][0, :32], batch["label"][1, :, :32] = 3, 7

    config = default_config()
    config.model.update(name=name, **MODELS[name])
    config.optimizer.update(name="adam", learning_rate=5e-3, schedule="constant")
    model = build.model(config, dataset.info)
    init, shapes, shardings = build.state(config, model, one_device_mesh)
    step = jit_train_step(
        build.train_step(config, model, dataset.info, shapes.params, one_device_mesh), shardings, one_device_mesh
    )
    state = init()
    for _ in range(STEPS[name]):
        state, _ = step(state, sharding.put_batch(one_device_mesh, batch))
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(state.eval_variables(), batch["image"])
    counts = metrics.confusion_matrix(logits.argmax(-1), batch["label"], dataset.info.num_classes)
    found = metrics.scores(np.asarray(counts))
    assert np.isfinite(found["iou"]).sum() >= 3
    assert found["mIoU"] > 0.99
