"""Office-Home: train on three domains, test on the fourth.

65 classes of everyday objects in four domains (Art, Clipart, Product, Real World; Venkateswara et al., 2017), laid out
as DOMAIN/CLASS/IMAGE, which has to be fetched by hand. PACS, VLCS and DomainNet in the same layout work with their own
names of domains, and DomainNet with `--method "daml(domains=5)"`. `--held-out` names the domain that is tested on;
`multimix domains office-home` holds out all in turn. A ResNet-18 with published ImageNet weights; epochs, learning
rate, momentum, weight decay and the share of each domain in a batch (24 examples) are those of DAML's public code,
whose setting has other classes in each domain, so that its numbers do not compare.

Command:  multimix train office-home --data-root DIR --held-out Art --method daml
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from ..training.config import Config

config = Config(
    data="domains",
    held_out="Art",
    balance_domains=True,
    model="torchvision:resnet18",
    pretrained=True,
    method="daml",
    image_size=224,
    augment="none",
    val_per_class=2,
    epochs=30,
    batch_size=72,
    lr=0.001,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="step",
    milestones=(24,),
    workers=4,
)
