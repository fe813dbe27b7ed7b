"""CIFAR-100 with AutoMix (ECCV 2022), after the authors' settings.

Epochs, batch size, learning rate, weight decay and the options of the method are those of openmixup's
cifar100/automix/basic/r18_l2_a2_near_L1_01_mlr5e_2. Theirs is a ResNet-18 with an activation after the addition,
reflected instead of black padding, and a cosine that ends at a learning rate of 0.05; here it is PreActResNet-18, black
padding, and a cosine that ends at 0. The published figure is the median of the last ten epochs.

Command:  multimix train cifar100-automix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: 81.78 (% test accuracy, openmixup's benchmark of its ResNet-18; not reproduced by us)
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="automix(lam_embedding=False, momentum_steps=200000)",
    augment="crop-flip",
    epochs=400,
    batch_size=100,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="cosine",
)
