"""The fully connected CRF in NumPy, float64, one pair of pixels at a time in spirit: from the paper's equations.

Kraehenbuehl and Koltun 2011: eq. 3 (the two kernels), algorithm 1 (mean field), with the pixel's own marginal in the
message, as in the authors' code.
"""

import numpy as np


def kernel_matrix(features):
    """k_ij = exp(-|f_i - f_j|^2 / 2): [N, N] of features [N, d]."""
    features = np.asarray(features, np.float64)
    count = len(features)
    matrix = np.empty((count, count))
    for i in range(count):
        matrix[i] = np.exp(-0.5 * ((features - features[i]) ** 2).sum(1))
    return matrix


def pixel_features(image, sigma_xy, sigma_rgb=None):
    """Position, and colour where there is a sigma_rgb, of each pixel of [H, W, 3], row by row."""
    rows = []
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            colour = [] if sigma_rgb is None else [float(value) / sigma_rgb for value in image[y, x]]
            rows.append([x / sigma_xy, y / sigma_xy, *colour])
    return np.array(rows)


def normalized(matrix, normalization):
    """D^-1/2 K D^-1/2, D^-1 K (after), K D^-1 (before) or K, with D the row sums of K."""
    sums = matrix.sum(1)
    left = {"none": 0.0, "before": 0.0, "after": 1.0, "symmetric": 0.5}[normalization]
    right = {"none": 0.0, "before": 1.0, "after": 0.0, "symmetric": 0.5}[normalization]
    return matrix * sums[:, None] ** -left * sums[None] ** -right


def softmax(energy):
    exponent = np.exp(energy - energy.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def potts(classes):
    return 1.0 - np.eye(classes)


def mean_field(
    unary, image, *, w1, sigma_alpha, sigma_beta, w2, sigma_gamma, mu=None, iterations=10, normalization="symmetric"
):
    """Marginals [H, W, C] of energies [H, W, C] and an image [H, W, 3]; mu [C, C], None for Potts."""
    height, width, classes = unary.shape
    energy = np.asarray(unary, np.float64).reshape(-1, classes)
    mu = potts(classes) if mu is None else np.asarray(mu, np.float64)
    appearance = normalized(kernel_matrix(pixel_features(image, sigma_alpha, sigma_beta)), normalization)
    smoothness = normalized(kernel_matrix(pixel_features(image, sigma_gamma)), normalization)
    marginals = softmax(-energy)
    for _ in range(iterations):
        message = np.asarray(w1) * (appearance @ marginals) + np.asarray(w2) * (smoothness @ marginals)
        pairwise = np.zeros_like(message)
        for label in range(classes):
            for other in range(classes):
                pairwise[:, label] += mu[label, other] * message[:, other]
        marginals = softmax(-energy - pairwise)
    return marginals.reshape(height, width, classes)


def densecrf(
    unary, image, *, w1, sigma_alpha, sigma_beta, w2, sigma_gamma, mu=None, iterations=10, normalization="symmetric"
):
    """`mean_field` by Kraehenbuehl's C++ code on the lattice; the caller sees to it that pydensecrf is there.

    A compatibility mu of [C] is diagonal. It has one compatibility a kernel, in which the weight is a factor.
    """
    import pydensecrf.densecrf as pydensecrf

    height, width, classes = unary.shape
    name = "NO_NORMALIZATION" if normalization == "none" else f"NORMALIZE_{normalization.upper()}"
    kind = getattr(pydensecrf.NormalizationType, name)

    def compatibility(weight):
        return float(weight) if mu is None else np.ascontiguousarray(weight * mu, np.float32)

    crf = pydensecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(-1, classes).T, np.float32))
    crf.addPairwiseBilateral(
        sxy=sigma_alpha,
        srgb=sigma_beta,
        rgbim=np.array(image, np.uint8),
        compat=compatibility(w1),
        normalization=kind,
    )
    crf.addPairwiseGaussian(sxy=sigma_gamma, compat=compatibility(w2), normalization=kind)
    return np.array(crf.inference(iterations)).T.reshape(unary.shape)
