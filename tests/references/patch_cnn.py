"""The window classifier of Ciresan et al. 2012 in plain PyTorch, and the loop that slides it over an image."""

import numpy as np

from tests.references.pytorch import torch

nn, F = torch.nn, torch.nn.functional


class WindowClassifier(nn.Module):
    """[N, 3, window, window] to class scores [N, num_classes] of the centre pixels."""

    def __init__(self, num_classes, window, kernel_sizes, features, hidden):
        super().__init__()
        channels = 3
        for i, size in enumerate(kernel_sizes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, features, size))
            channels, window = features, (window - size + 1) // 2
        self.count = len(kernel_sizes)
        self.hidden = nn.Linear(features * window * window, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x):
        for i in range(1, self.count + 1):
            x = F.max_pool2d(F.relu(self.get_submodule(f"conv{i}")(x)), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def slide(classifier, image, window):
    """image [H, W, 3] in NumPy to scores [H, W, num_classes]: one window a pixel, mirrored at the edges."""
    height, width = image.shape[:2]
    half = window // 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    scores = []
    for i in range(height):
        row = np.stack([padded[i : i + window, j : j + window] for j in range(width)])
        with torch.no_grad():
            scores.append(classifier(torch.from_numpy(row.transpose(0, 3, 1, 2).copy())).numpy())
    return np.stack(scores)
