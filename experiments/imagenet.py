"""The preprocessing of most classifiers that were trained on ImageNet, torchvision's, timm's and smp's among them."""

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""R, G, B in 0..255: 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."""
