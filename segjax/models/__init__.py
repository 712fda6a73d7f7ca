"""Models by name. MODELS is the list; `build_model` makes one."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention_unet import AttentionUNet
from segjax.models.ccnet import CCNet
from segjax.models.conv_rnn import ConvRNN
from segjax.models.crf_rnn import CRFRNN
from segjax.models.danet import DANet
from segjax.models.deeplab_v1 import DeepLabV1
from segjax.models.deeplab_v2 import DeepLabV2
from segjax.models.deeplab_v3 import DeepLabV3
from segjax.models.deeplab_v3plus import DeepLabV3Plus
from segjax.models.espnet import ESPNet
from segjax.models.fc_densenet import FCDenseNet
from segjax.models.fcn import FCN
from segjax.models.fcn_resnet import FCNResNet
from segjax.models.lraspp import LRASPP
from segjax.models.mask2former import Mask2Former
from segjax.models.nonlocal_net import NonLocalNet
from segjax.models.ocrnet import OCRNet
from segjax.models.patch_cnn import PatchCNN
from segjax.models.pspnet import PSPNet
from segjax.models.reseg import ReSeg
from segjax.models.segformer import SegFormer
from segjax.models.segmenter import Segmenter
from segjax.models.segnet import SegNet
from segjax.models.unet import UNet
from segjax.models.unet_resnet import UNetResNet
from segjax.models.upernet import UPerNet

MODELS = {
    "attention_unet": AttentionUNet,  # Oktay et al. 2018
    "ccnet": CCNet,  # Huang et al. 2019
    "conv_rnn": ConvRNN,  # ConvLSTM and ConvGRU (Shi et al. 2015, Ballas et al. 2016) in any with `remember`
    "crf_rnn": CRFRNN,  # Zheng et al. 2015, on any of the others
    "danet": DANet,  # Fu et al. 2019
    "deeplab_v1": DeepLabV1,  # Chen et al. 2015, LargeFOV
    "deeplab_v2": DeepLabV2,  # Chen et al. 2018 (PAMI), ASPP
    "deeplab_v3": DeepLabV3,  # Chen et al. 2017
    "deeplab_v3plus": DeepLabV3Plus,  # Chen et al. 2018 (ECCV)
    "espnet": ESPNet,  # Mehta et al. 2018
    "fc_densenet": FCDenseNet,  # Jegou et al. 2017
    "fcn": FCN,  # Long et al. 2015
    "fcn_resnet": FCNResNet,  # torchvision's form of it
    "lraspp": LRASPP,  # Howard et al. 2019
    "mask2former": Mask2Former,  # Cheng et al. 2022
    "nonlocal_net": NonLocalNet,  # Wang et al. 2018, in mmsegmentation's form
    "ocrnet": OCRNet,  # Yuan et al. 2020
    "patch_cnn": PatchCNN,  # Ciresan et al. 2012
    "pspnet": PSPNet,  # Zhao et al. 2017
    "reseg": ReSeg,  # Visin et al. 2016
    "segformer": SegFormer,  # Xie et al. 2021
    "segmenter": Segmenter,  # Strudel et al. 2021
    "segnet": SegNet,  # Badrinarayanan et al. 2017; with dropout Kendall et al. 2017
    "unet": UNet,  # Ronneberger et al. 2015
    "unet_resnet": UNetResNet,  # segmentation_models.pytorch's form of it
    "upernet": UPerNet,  # Xiao et al. 2018, on Swin, ConvNeXt or ResNet
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(name: str, *, num_classes: int, dtype: str = "float32", **fields: Any) -> nn.Module:
    """The module `MODELS[name]` with these fields.

    Args:
      name: key of MODELS.
      num_classes: channels of the logits.
      dtype: compute dtype, "float32" or "bfloat16".
      **fields: the model's own fields, see its docstring. A field that is another model is a mapping: its name and
        its own fields.

    Raises:
      ValueError: unknown name, field or dtype, with the valid ones and the nearest.
      ValueError: a field's value has the wrong type.
    """
    module = MODELS[_one_of("model", name, MODELS)]
    compute = DTYPES[_one_of("dtype", dtype, DTYPES)]
    types = typing.get_type_hints(module)
    not_own = ("parent", "name", "num_classes", "dtype")
    own = [field.name for field in dataclasses.fields(module) if field.init and field.name not in not_own]
    for field, value in {"num_classes": num_classes, **fields}.items():
        if field != "num_classes":
            _one_of(f"field of {name!r}", field, own)
        if isinstance(value, Mapping):
            fields[field] = build_model(**{"name": None, **value}, num_classes=num_classes, dtype=dtype)
        _check_type(f"{name}.{field}", value, types[field])
    return module(num_classes=num_classes, dtype=compute, **fields)


def count_params(variables: Any) -> int:
    """Number of values in `variables["params"]`; arrays or the shapes that `jax.eval_shape` gives."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _one_of(what, value, valid):
    if value in valid:
        return value
    nearest = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{what} must be one of {', '.join(valid)}; received {value!r}{hint}")


def _check_type(what, value, expected):
    if expected is Any:
        return
    allowed = typing.get_args(expected) or (expected,)
    # bool is an int to Python, and an int is good enough where a float is asked for.
    allowed = (*allowed, int) if float in allowed else allowed
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise ValueError(f"{what} must be {names}; received {value!r} ({type(value).__name__})")
