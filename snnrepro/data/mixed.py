"""Mixup, cutmix and smooth labels: targets become shares of the classes."""

import numpy as np
import torch
from torch import Tensor

from snnrepro.data.draw import MIX, generator
from snnrepro.data.images import ImageSet


class MixedSet(ImageSet):
    """A training set whose samples are mixed with another of the set, and whose labels are shares (B, classes).

    mixup, cutmix: alpha of the beta distribution of the share (Zhang et al., ICLR 2018; Yun et al., ICCV 2019); 0:
    never, both above 0: half of the samples each, as in timm. mix_epochs: mixed in these first epochs, None in all.
    smoothing: the share of a label that all classes divide. The partner is drawn from the whole set, not from the
    batch as in timm, so that batches, ranks and workers change nothing.
    """

    def __init__(
        self,
        samples: ImageSet,
        num_classes: int,
        seed: int,
        mixup: float,
        cutmix: float,
        mix_epochs: int | None,
        smoothing: float,
    ):
        super().__init__(samples.name, samples.images, samples.labels, mean=samples.mean, std=samples.std)
        self.samples, self.num_classes, self.seed, self.smoothing = samples, num_classes, seed, smoothing
        self.mixup, self.cutmix, self.mix_epochs = mixup, cutmix, mix_epochs

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Returns images (B, ...), float32 where any are mixed, and shares of the classes float32 (B, classes)."""
        images, labels = self.samples.__getitems__(keys)
        shares = self._smooth(labels)
        draws = {
            row: generator(self.seed, MIX, epoch, index)
            for row, (epoch, index) in enumerate(keys)
            if (self.mixup or self.cutmix) and (self.mix_epochs is None or epoch < self.mix_epochs)
        }
        if not draws:
            return images, shares
        partners = [(keys[row][0], int(draw.integers(len(self)))) for row, draw in draws.items()]
        others, other_labels = self.samples.__getitems__(partners)
        images, others, other_shares = images.float(), others.float(), self._smooth(other_labels)
        for (row, draw), other, other_share in zip(draws.items(), others, other_shares, strict=True):
            kept = self._mix(images[row], other, draw)
            shares[row] = kept * shares[row] + (1 - kept) * other_share
        return images, shares

    def where(self, index: int) -> str:
        """Returns in words which sample is number ``index``."""
        return self.samples.where(index)

    def _smooth(self, labels: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(labels, self.num_classes).float()
        return (1 - self.smoothing) * hot + self.smoothing / self.num_classes

    def _mix(self, image: Tensor, other: Tensor, draw: np.random.Generator) -> float:
        """Mixes ``other`` into ``image`` (..., H, W), and returns the share that is left of it."""
        paste = self.cutmix > 0 and (self.mixup == 0 or draw.random() < 0.5)
        alpha = self.cutmix if paste else self.mixup
        kept = draw.beta(alpha, alpha)
        if not paste:
            image.lerp_(other, 1 - kept)
            return kept
        height, width = image.shape[-2:]
        h, w = (round(side * (1 - kept) ** 0.5) for side in (height, width))
        row, column = int(draw.integers(height)), int(draw.integers(width))
        rows = slice(max(row - h // 2, 0), min(row - h // 2 + h, height))
        columns = slice(max(column - w // 2, 0), min(column - w // 2 + w, width))
        image[..., rows, columns] = other[..., rows, columns]
        return 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
