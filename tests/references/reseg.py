"""ReSeg (Visin et al. 2016) in plain PyTorch, with its own GRU and LSTM, and the way of their weights to ours."""

import numpy as np

from tests.references.pytorch import torch

nn = torch.nn


def recurrent(cell, inputs, hidden):
    layer = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](inputs, hidden, batch_first=True, bidirectional=True)
    with torch.no_grad():  # the paper has one bias, as ours
        layer.bias_hh_l0.zero_()
        layer.bias_hh_l0_reverse.zero_()
    layer.bias_hh_l0.requires_grad_(False)
    layer.bias_hh_l0_reverse.requires_grad_(False)
    return layer


class ReNetLayer(nn.Module):
    def __init__(self, inputs, hidden, patch=1, cell="gru"):
        super().__init__()
        self.patch = patch
        self.vertical = recurrent(cell, inputs * patch**2, hidden)
        self.horizontal = recurrent(cell, 2 * hidden, hidden)

    def forward(self, x):
        p = self.patch
        x = nn.functional.pad(x, (0, -x.shape[3] % p, 0, -x.shape[2] % p))
        n, c, height, width = x.shape
        rows, columns = height // p, width // p
        x = x.reshape(n, c, rows, p, columns, p).permute(0, 4, 2, 3, 5, 1)  # n, column, row, inner row, inner column, c
        x = self.vertical(x.reshape(n * columns, rows, p * p * c))[0]
        x = x.reshape(n, columns, rows, -1).transpose(1, 2).reshape(n * rows, columns, -1)
        return self.horizontal(x)[0].reshape(n, rows, columns, -1).permute(0, 3, 1, 2)


class ReSeg(nn.Module):
    def __init__(self, num_classes, width=64, hidden=(100, 100), patches=(1, 1), cell="gru", up_features=(50, 50)):
        super().__init__()
        self.stride = 4 * int(np.prod(patches))
        convolutions, inputs = [], 3
        for stage, count in enumerate((2, 2, 3)):
            if stage:
                convolutions.append(nn.MaxPool2d(2))
            for _ in range(count):
                convolutions += [nn.Conv2d(inputs, width * 2**stage, 3, padding=1), nn.ReLU()]
                inputs = width * 2**stage
        self.convolutions = nn.Sequential(*convolutions)
        self.renet = nn.ModuleList()
        for units, patch in zip(hidden, patches, strict=True):
            self.renet.append(ReNetLayer(inputs, units, patch, cell))
            inputs = 2 * units
        self.up = nn.ModuleList()
        for features in up_features:
            self.up.append(nn.ConvTranspose2d(inputs, features, 2, 2))
            inputs = features
        self.head = nn.Conv2d(inputs, num_classes, 1)

    def forward(self, x):
        height, width = x.shape[2:]
        x = self.convolutions(nn.functional.pad(x, (0, -width % self.stride, 0, -height % self.stride)))
        for layer in self.renet:
            x = layer(x)
        for layer in self.up:
            x = torch.relu(layer(x))
        return self.head(x)[:, :, :height, :width]


def sweep_params(layer):
    """Of `segjax.models.layers.renet.Sweep`, from a GRU or LSTM of both directions."""
    weights = {name: tensor.detach().numpy() for name, tensor in layer.named_parameters()}
    ways = ("", "_reverse")
    return {
        "input_kernel": np.concatenate([weights[f"weight_ih_l0{way}"].T for way in ways], -1),
        "bias": np.concatenate([weights[f"bias_ih_l0{way}"] for way in ways]),
        "forward_kernel": weights["weight_hh_l0"].T,
        "backward_kernel": weights["weight_hh_l0_reverse"].T,
    }


def sweep_gradients(layer):
    """The same of the gradients, after `backward()`."""
    holder = {name: tensor.grad for name, tensor in layer.named_parameters()}

    class Gradients:
        def named_parameters(self):
            return [(name, tensor) for name, tensor in holder.items() if tensor is not None]

    return sweep_params(Gradients())


def renet_params(layer):
    return {"vertical": sweep_params(layer.vertical), "horizontal": sweep_params(layer.horizontal)}


def params(module):
    """Of `segjax.models.reseg.ReSeg`."""

    def conv(layer):
        return {"kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0), "bias": layer.bias.detach().numpy()}

    names = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"]
    convolutions = [layer for layer in module.convolutions if isinstance(layer, nn.Conv2d)]
    found = {"backbone": {name: {"conv": conv(layer)} for name, layer in zip(names, convolutions, strict=True)}}
    for index, layer in enumerate(module.renet):
        found[f"renet{index}"] = renet_params(layer)
    for index, layer in enumerate(module.up):  # stored [inputs, outputs, 2, 2]; ours is turned by 180 degrees
        kernel = layer.weight.detach().numpy().transpose(2, 3, 0, 1)[::-1, ::-1]
        found[f"up{index}"] = {"kernel": kernel.copy(), "bias": layer.bias.detach().numpy()}
    return {**found, "head": conv(module.head)}
