"""Your own images: any folder with train/CLASS/* and val/CLASS/* or test/CLASS/*.

A ResNet-18 trained from scratch on 224 x 224 crops, with the usual ImageNet schedule shortened to 90 epochs and a
cosine. A starting point, not a tuned result: for small images try `--image-size 64 --model preactresnet18
--augment crop-flip`, with few images `--pretrained --lr 0.01`, on a GPU `--precision bf16-mixed --channels-last`. Hold
out `--val-per-class N` training images, so that the best epoch is not chosen on the test set. Where the training images
are too many to be fitted in so short a schedule, the paper's alpha of the default method learns slowly: compare it with
`multimix-small-alpha` and `erm`, as `multimix compare imagefolder` does.

Command:  multimix train imagefolder --data-root DIR --method dense-multimix
Hardware: one GPU for thousands of images, a CPU for hundreds
Time:     depends on your data; not measured
Expected: depends on your data; compare with `multimix compare imagefolder --data-root DIR`
"""

from ..training.config import Config

config = Config(
    data="imagefolder",
    model="torchvision:resnet18",
    method="dense-multimix",
    image_size=224,
    augment="random-resized-crop",
    epochs=90,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    schedule="cosine",
    warmup_epochs=5,
    workers=4,
)
