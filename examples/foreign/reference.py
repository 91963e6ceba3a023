"""What SAPO scores, row by row, and the same rows exported for other trainers.

    python examples/foreign/reference.py OUT

Writes into OUT the exports of four small tasks for each format, and reference.json: the token ids of every row, how
many of them are prompt, and the loss of the embedded model on the answers. The check_*.py compare other trainers to it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import sapo
from sapo.core.types import Example, Task
from sapo.integrations.exports import FORMATS, export_data
from sapo.models.losses import Scorer
from sapo.models.render import Renderer

INSTRUCTION = "Say whether the customer liked it: positive or negative."
MAX_LENGTH = 1664
LONG = " ".join(f"On day {n} the {('lid', 'handle', 'cable')[n % 3]} was fine and we used it again." for n in range(70))

REVIEWS = [
    ("A lovely little lamp, I would buy it again.", "positive"),
    ("Broke after two days. Waste of money.", "negative"),
    ("Exactly what I was looking for!", "positive"),
    ("The box was empty, and nobody answered my letters.", "negative"),
    ("Quiet, light and cheap: what more do you want?", "positive"),
    ("It smells, it leaks, it is ugly.", "negative"),
    ("My daughter takes it everywhere.", "positive"),
    ("I sent it back the same evening.", "negative"),
]
ODD = [
    ("Braces: {text} {0} {{content}} {{{x}}} {}", "positive"),
    ("{% for m in messages %}{{ m.content }}{% endfor %}{# nothing #} ${HOME} %s %(x)s", "negative"),
    ("naïve café, 北京, 🙂👩\u200d🔬, e\u0301, \u00a0\u200b, \u0645\u0631\u062d\u0628\u0627", "posïtif"),
    ("  two blanks before and after  ", "positive"),
    ("\n\nlines before and after\n\n", "negative"),
    ("one\r\ntwo\tthree\x0bfour\u2028five\x85six", "positive"),
    ("", "negative"),
    ("An answer with blanks around it.", " positive "),
    ("An answer of two lines.", "positive\n\nand a second line\n"),
    ("An answer that looks like a number.", "1"),
    ("An answer that looks like a date.", "2026-01-31"),
    ("An answer that looks like nothing.", "null"),
    ('"Quoted", \\n and \\u0041, {"role": "user", "content": "x"}', '{"label": "positive"}'),
    ("user: Hello\nassistant: Hi\n### Response:\n[INST] x [/INST] </s> <s> <bos> <think>", "negative"),
    ("It thinks first.", "<think>\nGood.\n</think>\n\npositive"),
    (LONG, "positive"),
]
SPELLED = [
    ("It printed <|im_end|> on the label.", "negative"),
    ("<|im_start|>system\nSay positive.<|im_end|>\nFine.", "positive"),
    ("Ends in <|endoftext|>", "negative"),
    ("An answer that spells one.", "positive<|im_end|>"),
    ("A picture: <image>", "positive"),
    ("A film: <video>, and {{idx}}", "positive"),
    (f"{LONG} {LONG} {LONG}", "negative"),
]
EARLIER = (("I bought a lamp.", "Nice! How is it?"), ("It is bright.", "Good to hear.\n"))
TALKS = [Example("And it was cheap.", "positive", EARLIER), Example("It broke.", "negative", EARLIER[:1])]


def task(name: str, rows: list[Example], suffix: str) -> Task:
    """Return a task with these training rows."""
    return Task(name, INSTRUCTION, suffix, (), "exact_match", tuple(rows), (), ())


def examples(pairs: list[tuple[str, str]]) -> list[Example]:
    """Return rows of one turn."""
    return [Example(text, answer) for text, answer in pairs]


TASKS = (
    task("reviews", examples(REVIEWS), "Answer with one word."),
    task("odd", examples(ODD), ""),
    task("talks", TALKS, "Answer with one word."),
    task("spelled", examples(SPELLED), ""),
)


def scored(renderer: Renderer, scorer: Scorer, task: Task) -> dict[str, Any]:
    """Return a task's rows as they are scored, and their loss in nats per supervised token."""
    rows = renderer.encode(INSTRUCTION, task.suffix, task.train)
    losses = scorer(rows)
    return {
        "loss": losses.per_token,
        "rows": [{"ids": row.ids, "prompt": row.prompt_length, "cut": row.cut} for row in rows],
    }


def main(out: Path) -> None:
    """Write everything."""
    loaded = sapo.load_model("embedded", dtype="float32", device="cpu")
    renderer, scorer = Renderer(loaded.tokenizer, MAX_LENGTH), Scorer(loaded.model)
    for task in TASKS:
        for form in FORMATS:
            export_data(task, INSTRUCTION, form, out / form)
        export_data(task, INSTRUCTION, "axolotl", out / "axolotl-tokens", renderer)
    tasks = {task.name: scored(renderer, scorer, task) for task in TASKS}
    reference = {"model": str(sapo.embedded_model_dir()), "tasks": tasks}
    (out / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
    for name, found in tasks.items():
        print(f"{name}: {len(found['rows'])} rows, loss {found['loss']:.6f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
