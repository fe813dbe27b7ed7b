"""Dense MultiMix on a model of timm, split where it can be mixed: `python examples/timm_model.py`.

Needs torch and timm. One training step of a vision transformer on random images; replace them by your loader's.
"""

import timm
import torch

import multimix as mm

model = mm.models.split(timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
dense = mm.methods.DenseMultiMix(alpha=mm.SMALL_ALPHA)

images, labels = torch.rand(8, 3, 64, 64), torch.randint(10, (8,))
out = dense(model, images, labels)
out.loss.backward()
optimizer.step()
print(f"loss {out.loss.item():.3f}, clean training accuracy {(out.logits.argmax(1) == labels).float().mean():.3f}")
