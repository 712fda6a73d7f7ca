"""Conditional Random Fields as Recurrent Neural Networks. Zheng et al., ICCV 2015. arXiv:1502.03240.

The mean field of a fully connected CRF as a recurrent layer on the scores of any segmentation network, trained with it
end to end (sections 4 and 5): 5 iterations in training and 10 in evaluation (section 5.2). Of each iteration (figure 2)
the kernels' weights, one a class and kernel, and the compatibility matrix are learnt; the bandwidths are fixed.

The paper trains FCN-8s first, and then both together at a low rate: `config.init` takes the network alone, too.
Bandwidths and initial values are those of the authors' Caffe nets (github.com/torrvision/crfasrnn,
TVG_CRFRNN_COCO_VOC.prototxt), which learn the kernels' weights 10,000 times and the compatibility 1,000 times as fast
as the network: `config.optimizer.rate_factors`. Kernels are normalised by the sum of their rows ("after"), as theirs.

What an evaluation pads an image with takes part in the messages: `config.evaluation.size_multiple` = 1 pads with
nothing, and compiles once for each size.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import denormalise
from segjax.crf import CRFParams, mean_field_logits
from segjax.models.output import Output


class CRFRNN(nn.Module):
    """A network and the CRF on its scores.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype of the network; the CRF is computed in float32.
      network: a model that returns logits; in a config {"name": one of MODELS, and its own fields}.
      mean, std, channel_order: of the image that the network sees, see `segjax.data.augment.transforms.normalise`: the
        CRF needs the colours in 0..255 back. `segjax.build` fills in those of the config.
      iterations, evaluation_iterations: of the mean field, in training and in evaluation.
      bilateral_weight, spatial_weight: w1 and w2 of all classes at the start.
      bilateral_sigma_xy: theta_alpha, pixels.
      bilateral_sigma_rgb: theta_beta, in 0..255.
      spatial_sigma_xy: theta_gamma, pixels.
      bilateral_filter, spatial_filter: see `segjax.crf.mean_field`.
    """

    num_classes: int
    dtype: Any = jnp.float32
    network: Any = None
    mean: Sequence = ()
    std: Sequence = ()
    channel_order: str = ""
    iterations: int = 5
    evaluation_iterations: int = 10
    bilateral_weight: float = 5.0
    spatial_weight: float = 3.0
    bilateral_sigma_xy: float = 160.0
    bilateral_sigma_rgb: float = 3.0
    spatial_sigma_xy: float = 3.0
    bilateral_filter: str = "auto"
    spatial_filter: str = "auto"

    def __post_init__(self):
        if not isinstance(self.network, nn.Module):
            raise ValueError(
                "crf_rnn needs a network below the CRF: in a config model.network = {'name': 'fcn', ...};"
                f" received {self.network!r}"
            )
        sigmas = (self.bilateral_sigma_xy, self.bilateral_sigma_rgb, self.spatial_sigma_xy)
        if min(sigmas) <= 0 or min(self.iterations, self.evaluation_iterations) < 1:
            raise ValueError(
                "crf_rnn needs sigmas above 0 and at least 1 iteration in training and in evaluation; received sigmas"
                f" {sigmas} and iterations {self.iterations} and {self.evaluation_iterations}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, 3], normalised, to logits float32 [N, H, W, num_classes].

        In training the network's own scores, without the CRF, are not returned; its auxiliary heads' are.
        """
        found = self.network(image, train=train)
        scores = found.logits if isinstance(found, Output) else found
        classes = (self.num_classes,)
        params = CRFParams(
            bilateral_weight=self.param("bilateral_weight", nn.initializers.constant(self.bilateral_weight), classes),
            bilateral_sigma_xy=self.bilateral_sigma_xy,
            bilateral_sigma_rgb=self.bilateral_sigma_rgb,
            spatial_weight=self.param("spatial_weight", nn.initializers.constant(self.spatial_weight), classes),
            spatial_sigma_xy=self.spatial_sigma_xy,
            compatibility=self.param("compatibility", lambda _: -jnp.eye(self.num_classes)),  # Potts,
        )
        colours = denormalise(
            image,
            mean=self.mean or (0.0,) * 3,
            std=self.std or (1.0,) * 3,
            channel_order=self.channel_order or "rgb",
        )
        logits = mean_field_logits(
            -scores,
            colours,
            params,
            iterations=self.iterations if train else self.evaluation_iterations,
            bilateral_filter=self.bilateral_filter,
            spatial_filter=self.spatial_filter,
            normalization="after",
        )
        return Output(logits, found.auxiliary) if isinstance(found, Output) else logits
