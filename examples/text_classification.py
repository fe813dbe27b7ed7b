"""MultiMix for text, with Hugging Face's encoders and Trainer: `python examples/text_classification.py TRAIN TEST`.

Needs transformers and accelerate. Files hold one sentence a line, its label first: "DESC:manner How does rain form ?",
of which the part before the colon counts, or "0 How does rain form ?". The questions of TREC are such files
(https://cogcomp.seas.upenn.edu/Data/QA/QC/, train_5500.label and TREC_10.label).

A model whose `forward` returns the loss is all that Trainer asks for. Sentences are of any length: the embedding is the
mean of the real tokens, and Dense MultiMix takes the tokens themselves with their mask.

Measured on TREC with `--per-class 50` (300 questions to train on, 500 to test on) and `--seed 0`, 1 and 2, mean and
standard deviation, on one core of an AMD EPYC, torch 2.14, transformers 5.24, 2026-12-01: accuracy 90.2 +- 1.2 % with
cross entropy, 90.2 +- 1.2 with MultiMix, 89.9 +- 1.1 with Dense MultiMix; negative log-likelihood 0.343 +- 0.040,
0.311 +- 0.023 and 0.325 +- 0.027. MultiMix's is lower with each seed, by 0.032 +- 0.045 (95 % interval): nothing is
beyond the noise.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

import multimix as mm


class Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, classes: int, criterion: mm.MultiMix | None) -> None:
        super().__init__()
        self.encoder, self.head, self.criterion = encoder, nn.Linear(encoder.config.hidden_size, classes), criterion

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(tokens.dtype)
        embeddings = (tokens * real).sum(1) / real.sum(1)
        logits = self.head(embeddings)
        if not self.training or self.criterion is None:
            loss = nn.functional.cross_entropy(logits, labels)
        elif isinstance(self.criterion, mm.DenseMultiMix):
            loss = self.criterion(tokens, labels, self.head, mask=attention_mask.bool())
        else:
            loss = self.criterion(embeddings, labels, self.head)  # the one line
        return {"loss": loss, "logits": logits}


def read(file: Path, tokenizer: Any, classes: list[str] | None, per_class: int | None) -> tuple[list[Any], list[str]]:
    """The sentences as Trainer takes them, and the class names."""
    lines = [line.split(" ", 1) for line in file.read_text("latin-1").split("\n") if line.strip()]
    names = [label.split(":")[0] for label, _ in lines]
    classes = classes or sorted(set(names))
    left = dict.fromkeys(classes, len(lines) if per_class is None else per_class)
    found = []
    for name, (_, text) in zip(names, lines, strict=True):
        left[name] -= 1
        if left[name] >= 0:
            found.append({**tokenizer(text, truncation=True, max_length=64), "labels": classes.index(name)})
    return found, classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="name, or folder")
    parser.add_argument("--per-class", type=int, help="train on the first so many sentences of each class")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    train, classes = read(options.train, tokenizer, None, options.per_class)
    test, _ = read(options.test, tokenizer, classes, None)
    criteria = {
        "cross entropy": None,
        "MultiMix": mm.MultiMix(alpha=mm.SMALL_ALPHA),
        "Dense MultiMix": mm.DenseMultiMix(alpha=mm.SMALL_ALPHA, attention="uniform", normalize="global"),
    }
    for name, criterion in criteria.items():
        set_seed(options.seed)
        model = Classifier(AutoModel.from_pretrained(options.encoder), len(classes), criterion)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, num_train_epochs=options.epochs, per_device_train_batch_size=32, per_device_eval_batch_size=128,
                learning_rate=1e-4, warmup_steps=0.1, weight_decay=0.01, seed=options.seed, save_strategy="no",
                report_to="none",
            )  # fmt: skip
            trainer = Trainer(
                model, arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer),
                compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(1) == found.label_ids).mean()},
            )  # fmt: skip
            trainer.train()
            found = trainer.evaluate(test)
        print(f"{name:15} test accuracy {found['eval_accuracy']:.3f}, neg. log-likelihood {found['eval_loss']:.3f}")


if __name__ == "__main__":
    main()
