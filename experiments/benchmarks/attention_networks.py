"""DANet, CCNet, OCRNet and the non-local network in PyTorch as fast as it can, for `train_step.py` to compare with.

Those of tests/references follow the papers' sums element by element, which says nothing about speed. Here attention is
matrix products, as in the authors' code, on torchvision's ResNet-50 with output stride 8. That both have as many
parameters is checked where they are timed.
"""

from tests.references.pytorch import library, torch

nn, functional = torch.nn, torch.nn.functional


def conv(inputs, outputs, size=3, bias=False):
    layers = [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def head(inputs, channels, classes, rate=0.1):
    return nn.Sequential(conv(inputs, channels), nn.Dropout2d(rate), nn.Conv2d(channels, classes, 1))


class Dilated(nn.Module):
    """ResNet-50's features at output stride 8, of its last two stages; `scores` gives logits by name."""

    def __init__(self):
        super().__init__()
        network = library("torchvision").models.resnet50(replace_stride_with_dilation=[False, True, True])
        self.early = nn.Sequential(*[layer for name, layer in network.named_children() if name not in OF_CLASSIFIER])
        self.last = network.layer4

    def forward(self, image):
        middle = self.early(image)
        found = self.scores(middle, self.last(middle))
        return {name: functional.interpolate(x, size=image.shape[2:], mode="bilinear") for name, x in found.items()}


OF_CLASSIFIER = ("layer4", "avgpool", "fc")


class SelfAttention(nn.Module):
    """Query, key and value of 1x1 convolutions; x + gamma * what `attend` takes from the values."""

    def __init__(self, channels, attend):
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, channels // 8, 1), nn.Conv2d(channels, channels // 8, 1)
        self.value, self.gamma = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.zeros(1))
        self.attend = attend

    def forward(self, x):
        return x + self.gamma * self.attend(self.query(x), self.key(x), self.value(x))


def everywhere(query, key, value):
    weights = torch.softmax(query.flatten(2).transpose(1, 2) @ key.flatten(2), -1)
    return (value.flatten(2) @ weights.transpose(1, 2)).view_as(value)


def criss_cross(query, key, value):
    width = query.shape[3]
    rows = torch.einsum("ndhw,ndhv->nhwv", query, key)
    columns = torch.einsum("ndhw,ndgw->nhwg", query, key)
    itself = torch.eye(query.shape[2], dtype=bool)[:, None]
    weights = torch.softmax(torch.cat([rows, columns.masked_fill(itself, -torch.inf)], -1), -1)
    of_row, of_column = weights[..., :width], weights[..., width:]
    return torch.einsum("nhwv,nchv->nchw", of_row, value) + torch.einsum("nhwg,ncgw->nchw", of_column, value)


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        maps = x.flatten(2)
        alike = maps @ maps.transpose(1, 2)
        weights = torch.softmax(alike.amax(-1, keepdim=True) - alike, -1)
        return x + self.gamma * (weights @ maps).view_as(x)


class DANet(Dilated):
    def __init__(self, classes):
        super().__init__()
        blocks = {"position": SelfAttention(512, everywhere), "channel": ChannelAttention()}
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(conv(2048, 512), block, conv(512, 512)) for name, block in blocks.items()}
        )
        names = ("out", *blocks)
        self.heads = nn.ModuleDict({n: nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(512, classes, 1)) for n in names})

    def scores(self, middle, last):
        found = {name: branch(last) for name, branch in self.branches.items()}
        found["out"] = sum(found.values())
        return {name: self.heads[name](x) for name, x in found.items()}


class CCNet(Dilated):
    def __init__(self, classes):
        super().__init__()
        self.before, self.after = conv(2048, 512), conv(512, 512)
        self.attention = SelfAttention(512, criss_cross)
        self.head, self.auxiliary = head(2048 + 512, 512, classes), head(1024, 512, classes)

    def scores(self, middle, last):
        x = self.after(self.attention(self.attention(self.before(last))))
        return {"out": self.head(torch.cat([last, x], 1)), "auxiliary": self.auxiliary(middle)}


class OCRNet(Dilated):
    def __init__(self, classes):
        super().__init__()
        self.regions, self.pixels = head(1024, 512, classes, 0.05), conv(2048, 512)
        self.query, self.key = (nn.Sequential(conv(512, 256, 1), conv(256, 256, 1)) for _ in range(2))
        self.value, self.context, self.join = conv(512, 256, 1), conv(256, 512, 1), conv(1024, 512, 1)
        self.head = nn.Sequential(nn.Dropout2d(0.05), nn.Conv2d(512, classes, 1))

    def scores(self, middle, last):
        coarse, pixels = self.regions(middle), self.pixels(last)
        shares = torch.softmax(coarse.flatten(2), -1)
        regions = (pixels.flatten(2) @ shares.transpose(1, 2))[..., None]
        query, key, value = self.query(pixels).flatten(2), self.key(regions).flatten(2), self.value(regions).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key / 16, -1)
        context = self.context((value @ weights.transpose(1, 2)).unflatten(2, pixels.shape[2:]))
        return {"out": self.head(self.join(torch.cat([context, pixels], 1))), "auxiliary": coarse}


class NonLocal(nn.Module):
    """The block of Wang et al. 2018, embedded Gaussian."""

    def __init__(self, channels):
        super().__init__()
        inner = channels // 2
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        query, key, value = self.theta(x), self.phi(x), self.g(x)
        return x + self.out(everywhere(query / query.shape[1] ** 0.5, key, value))


class NonLocalNet(Dilated):
    def __init__(self, classes):
        super().__init__()
        self.block = nn.Sequential(conv(2048, 512), NonLocal(512), conv(512, 512))
        self.head, self.auxiliary = head(2048 + 512, 512, classes), head(1024, 256, classes)

    def scores(self, middle, last):
        return {"out": self.head(torch.cat([last, self.block(last)], 1)), "auxiliary": self.auxiliary(middle)}
