"""Data sets and loaders.

>>> data = load("digits", per_class=20, val_per_class=5)
>>> data
DataSplits(train=200, val=50, test=870 images, 10 classes, image_size=8)
>>> batches = loader(data.train, batch_size=64, train=True, augment="crop")
>>> images, targets, extras = next(batches.batches(epoch=0))
>>> images.shape, images.dtype, targets.shape
(torch.Size([64, 1, 8, 8]), torch.float32, torch.Size([64]))
"""

from .catalogue import load
from .datasets import ArrayDataset, Dataset, DataSplits, FileDataset
from .loaders import Batch, Loader, loader
from .pictures import UnreadableImageError

__all__ = [
    "ArrayDataset",
    "Batch",
    "DataSplits",
    "Dataset",
    "FileDataset",
    "Loader",
    "UnreadableImageError",
    "load",
    "loader",
]
