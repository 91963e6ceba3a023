"""Frames that need no knowledge of the language, and words for them in a few languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sapo.candidates.rules.sentences import sentences
from sapo.candidates.rules.slots import listed
from sapo.candidates.rules.template import Frame

_LAYOUTS = (
    Frame("lines", "{lines}"),
    Frame("list", "{bullets}"),
    Frame("heading mark", "## {text}"),
    Frame("numbers", "{numbers}"),
    Frame("bold", "**{text}**"),
    Frame("paragraphs", "{paragraphs}"),
    Frame("stars", "{stars}"),
    Frame("rules", "---\n{text}\n---"),
    Frame("answers", "{text}\n\n{choices}."),
    Frame("quoted lines", "{cited}"),
    Frame("arrow", "→ {text}"),
    Frame("banner", "==========\n{text}"),
    Frame("paragraph mark", "§ 1\n{text}"),
    Frame("string", 'task = """\n{text}\n"""'),
)
# By language: a word for task, one for instruction, and openings that end in a colon.
_WORDS: dict[str, tuple[str, ...]] = {
    "de": (
        "Aufgabe:", "Anweisung:", "Bitte führe die folgende Anweisung aus:", "Deine Aufgabe lautet wie folgt:",
        "Hier ist eine Aufgabe für dich:", "Das ist zu tun:", "Lies die Eingabe und folge dann dieser Anweisung:",
        "Die Übung für heute:", "Arbeitsauftrag\n==============",
    ),
    "fr": (
        "Tâche :", "Consigne :", "Veuillez suivre la consigne suivante :", "Voici la tâche à accomplir :",
        "Voici ce qui est demandé :", "L'exercice du jour :", "Lisez le texte fourni, puis suivez cette consigne :",
        "Ce qu'il faut faire :", "Énoncé\n======",
    ),
    "es": (
        "Tarea:", "Instrucción:", "Por favor, sigue la siguiente instrucción:", "Esta es la tarea por realizar:",
        "Lo que hay que hacer es lo siguiente:", "El ejercicio de hoy:", "Lee la entrada y sigue esta instrucción:",
        "Aquí tienes una tarea:", "Enunciado\n=========",
    ),
    "pt": (
        "Tarefa:", "Instrução:", "Por favor, siga a seguinte instrução:", "Esta é a tarefa a realizar:",
        "O que se pede é o seguinte:", "O exercício de hoje:", "Leia a entrada e siga esta instrução:",
        "Aqui está uma tarefa:", "Enunciado\n=========",
    ),
    "it": (
        "Compito:", "Istruzione:", "Per favore, segui la seguente istruzione:", "Ecco il compito da svolgere:",
        "Ecco che cosa bisogna fare:", "L'esercizio di oggi:", "Leggi l'input e segui questa istruzione:",
        "Quello che viene richiesto:", "Consegna\n========",
    ),
    "ru": (
        "Задание:", "Инструкция:", "Пожалуйста, выполните следующее задание:", "Вот что нужно сделать:",
        "Ваша задача состоит в следующем:", "Сегодняшнее упражнение:", "Прочитайте текст и выполните это указание:",
        "Требуется следующее:", "Условие задания\n===============",
    ),
    "ja": (
        "課題：", "指示：", "次の指示に従ってください。", "取り組んでいただく課題は次のとおりです。",
        "今日の練習問題です。", "入力を読んで、次の指示を実行してください。", "やるべきことは以下のとおりです。",
        "作業内容\n========", "お願いしたいことがあります。",
    ),
}  # fmt: skip


def neutral_frames(spoken: str | None) -> tuple[Frame, ...]:
    """Return the frames for a language, None for an unknown one: with words and without in turn."""
    words = _WORDS.get(spoken or "", ())
    worded = [
        Frame(f"opening {n}", f"{opening}\n{{text}}" if n % 2 == 0 or opening.endswith("=") else f"{opening} {{text}}")
        for n, opening in enumerate(words, start=1)
    ]
    mixed = [frame for pair in zip(worded, _LAYOUTS, strict=False) for frame in pair]
    return (*mixed, *_LAYOUTS[len(worded) :])


def neutral_slots(text: str, labels: Sequence[str]) -> Mapping[str, str]:
    """Return the slots of a frame that takes a text as a whole."""
    found = sentences(text)
    several = len(found) > 1
    return {
        "text": text,
        "lines": "\n".join(found) if several else "",
        "paragraphs": "\n\n".join(found) if several else "",
        "bullets": listed(found, "- "),
        "stars": listed(found, "* "),
        "numbers": "\n".join(f"{n}. {sentence}" for n, sentence in enumerate(found, start=1)) if several else "",
        "cited": "\n".join(f"> {line}" for line in text.splitlines()),
        "indented": "\n".join(f"  {line}" for line in text.splitlines()),
        "choices": " / ".join(labels) if len(labels) > 1 else "",
    }
