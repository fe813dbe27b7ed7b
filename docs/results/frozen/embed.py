"""Sentences to embeddings: the mean over the tokens of a pretrained encoder that is not trained further.

    python docs/results/frozen/embed.py trec embeddings --train TREC.train.all --test TREC.test.all

Needs transformers. Files hold one sentence a line, its label first ("0 How does rain form ?"), or are CSV files whose
first column is the label. Without `--test`, the sentences that are not trained on are tested on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("out", type=Path, help="folder for NAME.npz")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="name, or folder")
    options = parser.parse_args()
    tokenizer, encoder = AutoTokenizer.from_pretrained(options.encoder), AutoModel.from_pretrained(options.encoder)
    arrays = {}
    for split in ("train", "test"):
        if file := getattr(options, split):
            labels, sentences = read(file)
            arrays |= {f"{split}_y": labels, f"{split}_x": embed(sentences, tokenizer, encoder.eval())}
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / f"{options.name}.npz", **arrays)
    print({name: array.shape for name, array in arrays.items()})


def read(file: Path) -> tuple[np.ndarray, list[str]]:
    """Labels from 0 on, and the sentences."""
    text = file.read_text("latin-1")
    if file.suffix == ".csv":
        rows = [(row[0], " ".join(row[1:])) for row in csv.reader(text.splitlines())]
    else:
        rows = [tuple(line.split(" ", 1)) for line in text.split("\n") if line.strip()]
    labels = np.array([int(label) for label, _ in rows])
    return labels - labels.min(), [sentence for _, sentence in rows]


def embed(sentences: list[str], tokenizer, encoder) -> np.ndarray:
    """Of sentences of one length at a time, so that little is spent on padding."""
    order = np.argsort([len(sentence) for sentence in sentences], kind="stable")
    found = np.zeros((len(sentences), encoder.config.hidden_size), np.float32)
    for chosen in np.array_split(order, max(1, len(order) // 128)):
        batch = tokenizer(
            [sentences[k] for k in chosen], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with torch.no_grad():
            tokens = encoder(**batch).last_hidden_state
        real = batch["attention_mask"][..., None].to(tokens.dtype)
        found[chosen] = ((tokens * real).sum(1) / real.sum(1)).numpy()
    return found


if __name__ == "__main__":
    main()
