"""Dense MultiMix on a model of timm, split where it can be mixed: `python examples/timm_model.py`.

Needs torch and timm. A vision transformer learns noise in ten colours; replace it by your loader's images. Its
prediction is from the mean of the patch tokens (`global_pool="avg"`), which is what the dense loss trains.
"""

import timm
import torch

import multimix as mm

vit = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, global_pool="avg", fc_norm=False)
model = mm.models.split(vit)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
dense = mm.methods.DenseMultiMix(alpha=mm.SMALL_ALPHA)

colors, labels = torch.rand(10, 3, 1, 1), torch.arange(20) % 10
for step in range(20):
    images = (colors[labels] + 0.1 * torch.randn(20, 3, 32, 32)).clamp(0, 1)
    out = dense(model, images, labels)
    optimizer.zero_grad()
    out.loss.backward()
    optimizer.step()
    if step % 5 == 4:
        accuracy = (out.logits.argmax(1) == labels).float().mean()
        print(f"step {step + 1}: loss {out.loss.item():.3f}, clean training accuracy {accuracy:.3f}")
