"""SegNet and SegNet-Basic (Badrinarayanan et al. 2017) in plain PyTorch, layer by layer from the papers.

Names are those of the authors' Caffe nets. Dropout (Kendall et al. 2017) stands where bayesian_segnet_train and
bayesian_segnet_basic_train have it.
"""

from tests.references.pytorch import torch

nn, F = torch.nn, torch.nn.functional


class Layer(nn.Module):
    """Convolution without bias, batch normalisation, and ReLU where wanted."""

    def __init__(self, inputs, outputs, kernel, relu=True, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x):
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


def pool(x):
    return F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)


def unpool(x, index, like):
    return F.max_unpool2d(x, index, 2, 2, output_size=like.shape[2:])


def enlarge(x, like):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)[..., : like.shape[2], : like.shape[3]]


class SegNetBasic(nn.Module):
    def __init__(self, num_classes, width=64, dropout=0.0, decoder="indices"):
        super().__init__()
        groups = width if decoder == "single_channel" else 1
        self.enlarges, self.adds = decoder == "bilinear", decoder == "addition"
        self.conv1 = Layer(3, width, 7)
        self.conv2 = Layer(width, width, 7)
        self.conv3 = Layer(width, width, 7)
        self.conv4 = Layer(width, width, 7)
        self.conv_decode4 = Layer(width, width, 7, relu=False, groups=groups)
        self.conv_decode3 = Layer(width, width, 7, relu=False, groups=groups)
        self.conv_decode2 = Layer(width, width, 7, relu=False, groups=groups)
        self.conv_decode1 = Layer(width, width, 7, relu=False, groups=groups)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x1 = self.conv1(x)
        p1, index1 = pool(x1)
        x2 = self.conv2(p1)
        p2, index2 = pool(x2)
        x3 = self.conv3(p2)
        p3, index3 = pool(x3)
        p3 = self.drop(p3)
        x4 = self.conv4(p3)
        p4, index4 = pool(x4)
        p4 = self.drop(p4)
        d4 = self.drop(self.decode(self.conv_decode4, p4, index4, x4, p3))
        d3 = self.drop(self.decode(self.conv_decode3, d4, index3, x3, p2))
        d2 = self.decode(self.conv_decode2, d3, index2, x2, p1)
        d1 = self.decode(self.conv_decode1, d2, index1, x1)
        return self.head(d1)

    def decode(self, layer, x, index, encoder, pooled=0):
        y = layer(enlarge(x, encoder) if self.enlarges else unpool(x, index, encoder))
        return y + pooled if self.adds else y


STAGES = (("1_1", "1_2"), ("2_1", "2_2"), ("3_1", "3_2", "3_3"), ("4_1", "4_2", "4_3"), ("5_1", "5_2", "5_3"))
CHANNELS = {
    **{"1_1": (3, 64), "1_2": (64, 64), "2_1": (64, 128), "2_2": (128, 128)},
    **{"3_1": (128, 256), "3_2": (256, 256), "3_3": (256, 256)},
    **{"4_1": (256, 512), "4_2": (512, 512), "4_3": (512, 512)},
    **{"5_1": (512, 512), "5_2": (512, 512), "5_3": (512, 512)},
}


class SegNet(nn.Module):
    def __init__(self, num_classes, width=64, dropout=0.0):
        super().__init__()
        for name, (inputs, outputs) in CHANNELS.items():
            inputs, outputs = (n if n == 3 else n * width // 64 for n in (inputs, outputs))
            self.add_module(f"conv{name}", Layer(inputs, outputs, 3))
            if name != "1_1":
                self.add_module(f"conv{name}_D", Layer(outputs, inputs, 3))
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)  # conv1_1_D
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        before, indices = [], []
        for stage, names in enumerate(STAGES, start=1):
            for name in names:
                x = self.get_submodule(f"conv{name}")(x)
            before.append(x)
            x, index = pool(x)
            indices.append(index)
            if stage >= 3:
                x = self.drop(x)
        for stage, names in reversed(list(enumerate(STAGES, start=1))):
            x = unpool(x, indices[stage - 1], before[stage - 1])
            for name in reversed(names):
                if name != "1_1":
                    x = self.get_submodule(f"conv{name}_D")(x)
            if stage >= 3:
                x = self.drop(x)
        return self.head(x)
