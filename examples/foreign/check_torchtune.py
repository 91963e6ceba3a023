"""torchtune's token ids and labels beside SAPO's: no row is the same, and this prints why.

    python examples/foreign/check_torchtune.py OUT

Reads the axolotl export with `chat_dataset`, as a recipe's configuration does. torchtune has no tokenizer for the
embedded model; that of Qwen2, which writes the same layout, is given the model's vocabulary and its default system
message. Checked besides: what is learned is the header of the assistant's turn, the answer and the end of turn, where
SAPO scores the answer, the end of turn and the line break after it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comparison import IGNORED, Comparison, Tokens
from torchtune.datasets import chat_dataset
from torchtune.models.qwen2 import Qwen2Tokenizer

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
HEADER = "<|im_start|>assistant\n"


def tokenizer(model: Path, out: Path) -> Qwen2Tokenizer:
    """Return Qwen2's tokenizer with the vocabulary of the model.

    Without max_seq_len: where that is given, the last end of turn is not learned.
    """
    found = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = out / "vocab.json", out / "merges.txt"
    vocabulary.write_text(json.dumps(found["model"]["vocab"]), encoding="utf-8")
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in found["model"]["merges"])
    merges.write_text("".join(f"{pair}\n" for pair in pairs), encoding="utf-8")
    special = {token["content"]: token["id"] for token in found["added_tokens"]}
    return Qwen2Tokenizer(str(vocabulary), str(merges), special)


def made(tokenizer: Qwen2Tokenizer, file: Path) -> list[Tokens]:
    """Return a data set's rows as torchtune trains on them."""
    rows = chat_dataset(
        tokenizer,
        source="json",
        data_files=str(file),
        conversation_column="messages",
        conversation_style="openai",
        train_on_input=False,
        new_system_prompt=SYSTEM,
    )
    return [(list(row["tokens"]), [int(label) for label in row["labels"]]) for row in rows]


def main(out: Path) -> None:
    """Compare everything."""
    comparison = Comparison(out)
    tune = tokenizer(Path(comparison.reference["model"]), out)
    comparison.decode = tune.decode
    for task, found in comparison.reference["tasks"].items():
        rows = made(tune, out / "axolotl" / f"{task}.jsonl")
        comparison.rows(task, rows, range(len(found["rows"])))
        if task not in ("reviews", "odd"):
            continue
        for number, (row, (_, labels)) in enumerate(zip(found["rows"], rows, strict=True)):
            scored = tune.decode(row["ids"][row["prompt"] :])
            learned = tune.decode([label for label in labels if label != IGNORED])
            if learned != HEADER + scored.removesuffix("\n"):
                comparison.failed.append(f"{task}, row {number}: learned {learned!r}, scored {scored!r}")
    comparison.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
