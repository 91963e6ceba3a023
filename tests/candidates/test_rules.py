"""Paraphrases by rules: what they keep, how they differ, and that no text whatever upsets them."""

import dataclasses
import json
from importlib.resources import files

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from sapo.candidates.checks import Pool
from sapo.candidates.language import changes_language
from sapo.candidates.opening import RULES
from sapo.candidates.rules.rewrite import LANGUAGES, fill, rewrites
from sapo.candidates.rules.sentences import sentences
from sapo.core.errors import CandidateError
from sapo.integrations.testing import toy_task

REVIEW = (
    'In this task, you are given a hotel review. Your task is to label it as "good" or "bad". The label must reflect '
    "the whole review. Note that prices should not be taken into account."
)
RATING = "Given a recipe, rate its difficulty on a scale of 1-4: 1: easy, 2: fair, 3: hard, 4: very hard."
STANCE = "What is the tone of the following message? A. angry, B. calm, C. neutral. Choose one from A, B and C."
SUMMARY = "You will be given a news article. Write a short summary of the article in one or two sentences."
SOLVE = "Solve the following riddle."
CHINESE_TEXT = "判断下面的评论是否值得信任，选择一项：A.是，B.否。输出A或者B。"
ENGLISH_TEXTS = [
    (REVIEW, ("good", "bad")),
    (RATING, ("1", "2", "3", "4")),
    (STANCE, ("A", "B", "C")),
    (SUMMARY, ()),
    (SOLVE, ()),
    ("Translate the sentence to French.", ()),
    ("Extract all email addresses from the text.", ()),
    ("Is this review about food? Answer yes or no.", ("yes", "no")),
    ("You are a helpful assistant that writes SQL for a question about the given table.", ()),
    ("Classify the news headline into World, Sports or Sci/Tech", ("World", "Sports", "Sci/Tech")),
    ("Label the ticket with one of these words:\n- billing\n- other\nUse nothing else.", ("billing", "other")),
    ("Replace {x} with %s in the code, see https://example.com/a?b=1, and return `result`.", ()),
]
LONG = " ".join(
    [
        "You are given a talk between a client and an agent. Your task is to write a report on the talk.",
        "The report should have 4 paragraphs. Do not include names, numbers or addresses in the report.",
        "Use the past tense throughout. Avoid direct quotes unless the exact wording matters for the complaint.",
        "The report must not be longer than 250 words. Keep the language neutral and professional.",
        "If the agent passed the client on to another department, mention the department and the reason for that.",
        "Amounts of money have to be given in the currency of the talk. Dates are written in the format YYYY-MM-DD.",
        "Statements about competitors are to be left out entirely. Every abbreviation must be spelled out.",
        "If the talk is in a language other than English, the report should be in English all the same.",
        "Check that every paragraph is present and that none of them is empty before you hand in the report.",
    ]
)


def published() -> list[str]:
    """A tenth of the paraphrases that come with the library: instructions in all sorts of styles."""
    content = json.loads(files("sapo.candidates").joinpath("published.json").read_text(encoding="utf-8"))
    return [text for texts in content.values() for text in texts[::10]]


def likeness(one: str, other: str) -> float:
    """Twice the longest common subsequence over both lengths, in percent, by dynamic programming."""
    row = [0] * (len(other) + 1)
    for a in one:
        corner = 0
        for n, b in enumerate(other, start=1):
            corner, row[n] = row[n], corner + 1 if a == b else max(row[n], row[n - 1])
    return 200 * row[-1] / (len(one) + len(other))


@pytest.mark.parametrize(("instruction", "labels"), [*ENGLISH_TEXTS, (CHINESE_TEXT, ("A", "B"))])
def test_there_are_thirty_and_all_are_valid_candidates(instruction: str, labels: tuple[str, ...]) -> None:
    task = dataclasses.replace(toy_task(), instruction=instruction, labels=labels)
    found = rewrites(instruction, labels)
    assert 30 <= len(found) <= 60
    assert Pool(task).add(found, "rules") == len(found)
    assert not any(changes_language(instruction, text) for text in found)


@pytest.mark.parametrize(("instruction", "labels"), ENGLISH_TEXTS)
def test_what_is_quoted_counted_or_linked_stays_to_the_letter(instruction: str, labels: tuple[str, ...]) -> None:
    kept = regex.findall(r'"[^"]+"|`[^`]+`|\{x\}|%s|https://[^\s,]+|\d+|\bone or two\b', instruction)
    for text in rewrites(instruction, labels):
        assert [piece for piece in kept if piece not in text] == []


def test_quotations_and_labels_are_not_reworded() -> None:
    # Every word of it is known in other words.
    instruction = 'Classify the text as generate, or as "choose the most reasonable" if it should be so.'
    for text in rewrites(instruction, ("generate",)):
        assert "generate" in text and '"choose the most reasonable"' in text


def test_no_two_are_nearly_alike() -> None:
    found = [" ".join(text.casefold().split()) for text in (SOLVE, *rewrites(SOLVE)[:40])]
    assert max(likeness(a, b) for n, a in enumerate(found) for b in found[:n]) <= 92


def test_every_constraint_is_in_every_rewrite() -> None:
    for text in rewrites(REVIEW, ("good", "bad")):
        assert "hotel review" in text and "whole review" in text and "prices" in text.casefold()
    for text in rewrites(LONG):
        assert "250 words" in text and "YYYY-MM-DD" in text and "competitors" in text


def test_lengths_range_from_terse_to_elaborate() -> None:
    lengths = [len(text) for text in rewrites(SUMMARY)[:20]]
    assert min(lengths) < len(SUMMARY) and max(lengths) > 2 * len(SUMMARY)


def test_published_instructions_of_all_styles_are_rewritten() -> None:
    counts = []
    for instruction in published():
        found = rewrites(instruction)
        counts.append(len(found))
        assert len(set(found)) == len(found) and instruction not in found
        quoted = regex.findall(r'"[^"]+"', instruction)
        assert all(piece in text for piece in quoted for text in found)
    assert min(counts) >= 8
    assert sorted(counts)[len(counts) // 2] >= 25


@pytest.mark.parametrize(
    ("instruction", "least", "word"),
    [
        ("Fasse den Artikel zusammen. Verwende höchstens zwanzig Wörter und nenne keine Namen.", 8, "zwanzig"),
        ("Résume le texte suivant en trois phrases, sans citer de noms propres.", 8, "trois"),
        ("Clasifica la reseña del cliente según su opinión como positiva o negativa.", 8, "positiva"),
        ("Classifique a avaliação do cliente como positiva ou negativa, sem explicações.", 8, "negativa"),
        ("Riassumi il testo seguente in una sola frase, senza citare nomi propri.", 8, "una sola"),
        ("Определи тональность отзыва: позитивный или негативный.", 8, "негативный"),
        ("次の文章を英語に翻訳してください。", 8, "英語"),
        ("제시된 문장을 영어로 번역하세요. 이름은 그대로 두세요.", 4, "영어"),
    ],
)
def test_other_languages_are_framed_in_themselves(instruction: str, least: int, word: str) -> None:
    found = rewrites(instruction)
    assert len(found) >= least
    assert all(word in text and not changes_language(instruction, text) for text in found)


@pytest.mark.parametrize("instruction", ["", " ", "?", "\n\n", "...", "😀"])
def test_a_text_without_letters_has_none(instruction: str) -> None:
    assert rewrites(instruction) == ()


@pytest.mark.parametrize("instruction", ["Summarize", "SUMMARIZE THE TEXT. DO NOT USE NAMES.", "Sentiment: yes or no?"])
def test_a_scrap_has_some(instruction: str) -> None:
    words = regex.findall(r"NAMES|yes|no\b", instruction)
    assert len(rewrites(instruction)) >= 5
    assert all(word in text for word in words for text in rewrites(instruction))


PIECES = st.sampled_from(
    [
        "Given", "the", "a text", ",", "classify it", 'as "POS"', ".", "{x}", "{ask.}", "[{rest}]", "%s", "must", "1)",
        "You are given", "Your task is to", "what", "?", "Note that", "however", "\\1", "\\g<0>", "«", "判断", "。",
        "请", "(", "\n- x", "[",
    ]
)  # fmt: skip


@given(st.text(max_size=60) | st.lists(PIECES, max_size=12).map(" ".join), st.lists(st.text(max_size=3), max_size=2))
@settings(max_examples=40, deadline=None)
def test_any_text_gives_texts(instruction: str, labels: list[str]) -> None:
    found = rewrites(instruction, labels)
    assert all(text.strip() for text in found)
    assert len(set(found)) == len(found)
    assert found == rewrites(f" {instruction}\n", labels)


def test_the_source_gives_all_of_them_in_rounds_of_those_wanted() -> None:
    task = dataclasses.replace(toy_task(), instruction=REVIEW, labels=("good", "bad"))
    told: list[int] = []
    rounds = list(RULES.paraphrases(task, 20, told.append))
    assert [text for part in rounds for text in part] == list(rewrites(REVIEW, ("good", "bad")))
    assert told == [len(part) for part in rounds] and set(told[:-1]) == {20}
    assert RULES.origin == "rules" and RULES.cost(task, 20) == ""
    assert list(RULES.paraphrases(dataclasses.replace(task, instruction="!"), 20)) == []


def test_a_long_instruction_is_compared_seldom_and_one_that_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []
    ratio = fuzz.ratio

    def counted(one: str, other: str, score_cutoff: float) -> float:
        compared.append(one)
        return float(ratio(one, other, score_cutoff=score_cutoff))

    monkeypatch.setattr(fuzz, "ratio", counted)
    assert rewrites(" ".join([LONG, REVIEW, SUMMARY] * 5)) and len(compared) < 100
    with pytest.raises(CandidateError, match="has 50001 characters, and rules rewrite at most 50000: shorten it"):
        rewrites("a" * 50_001)


@pytest.mark.parametrize(
    ("instruction", "labels", "kept"),
    [
        # Permissions, other words of the same letters, questions: a synonym at the wrong place would turn the meaning.
        ("Translate the sentence. The answer does not have to be in English.", (), "does not have to be"),
        ("Read the passage and answer the multiple choice question.", (), "multiple choice question"),
        ("Describe the picture without using the letter e.", (), "without using"),
        ("Extract the dates from the letter. Write the city on top of the list.", (), "on top of the list"),
        ("Compare the two sentences with one another and say whether they agree.", (), "one another"),
        ("Summarize the news article in short sentences.", (), "in short sentences"),
        ("Read the email. Should the reply be formal? Answer yes or no.", ("yes", "no"), "Should the reply be formal"),
        ("Answer the question. If the text could not be read, answer unknown.", (), "could not be read"),
        ("Find a new title for each of the news articles.", (), "for each of the"),
        ("Read the two words and combine them by adding a hyphen.", (), "by adding"),
        ("请回答下面的问题，不需要解释理由。", (), "不需要解释"),
        ("请判断用户要不要退货，并给出理由。", (), "要不要"),
        ("请完成下面的选择题，只写出答案。", (), "选择题"),
        ("请完成下面的判断题，只写出答案。", (), "判断题"),
        ("请用50字以下概括这篇文章的内容。", (), "50字以下"),
        ("Read the text and count the verbs in a sentence.", (), "in a sentence"),
        ("Read the letter and extract the given name of its author.", (), "the given name"),
        ("Read the beginning of the text and predict the following word.", (), "the following word"),
        # What is asked stands in every one, not only what is given and the labels.
        ("You are given two numbers. Decide whether the first or the second is larger.", ("first", "second"), "larger"),
        ("Given a tweet, decide whether the author is serious or joking.", ("serious", "joking"), "author"),
    ],
)
def test_no_rewrite_turns_or_drops_what_is_asked(instruction: str, labels: tuple[str, ...], kept: str) -> None:
    found = rewrites(instruction, labels)
    assert len(found) > 20 and all(kept.casefold() in text.casefold() for text in found)


@pytest.mark.parametrize("spoken", LANGUAGES)
def test_frames_are_unique_and_hold_the_instruction(spoken: str) -> None:
    frames = [*LANGUAGES[spoken].get("parts", ()), *LANGUAGES[spoken]["whole"]]
    assert len(set(frames)) == len(frames)
    content = ("{text}", "{lines}", "{bullets}", "{numbers}", "{stars}", "{paragraphs}", "{cited}", "{indented}")
    asks = ("{ask}", "{Ask}", "{bare}", "{first}", "{First}")
    assert all(any(slot in frame for slot in (*content, *asks)) for frame in frames)


def test_a_frame_takes_the_first_filled_alternative_and_never_reads_what_it_was_filled_with() -> None:
    slots = {"a": "", "b": "{c} [z|{a}]", "c": "\\1 %s", "d": ""}
    assert fill("[{a}, |{b}: ]{c}[ ({d})]", slots) == "{c} [z|{a}]: \\1 %s"
    assert fill("[{a}, |{b}: ]{c}[ ({d})]", {"a": "x", "c": ""}) is None


@pytest.mark.parametrize(
    ("instruction", "given", "asked"),
    [
        (SUMMARY, "a news article", "write a short summary of the article in one or two sentences."),
        ("Given the poem, name its author.", "the poem", "name its author."),
        ("In this task, you're given a word. Your task is to spell it.", "a word", "spell it."),
        ("Your job is to sort the words", "", "sort the words."),
        ("In this task, you are given a task and must do it. Do so.", "", ""),
        ("What is the topic of the text? Use one word.", "", ""),
        ("Generate: a word.", "", ""),
    ],
)
def test_what_is_given_and_what_is_asked_go_into_frames_of_their_own(instruction: str, given: str, asked: str) -> None:
    frame = f"Suppose that you are shown {given}. Then " if given else "The task at hand is to "
    found = [text for text in rewrites(instruction) if text.startswith(frame)]
    assert bool(found) == bool(asked)
    # In the original's words, or in others.
    assert all(text.removeprefix(frame)[:1].islower() and text.endswith(".") for text in found)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three? four", 4),
        ('He said "Go. Now." and left. So did I.', 2),
        ("Use e.g. Dr. No or i.e. Mr. Dot. Then stop.", 2),
        ("A. Dovish, B. Hawkish, C. Neutral. Choose one.", 2),
        ("It has parts (one. Two. three) and ends.", 1),
        ("Pick one:\n- a\n- b\nThen stop.", 2),
        ("第一句。第二句！第三句", 3),
        ("Rate it from 1 to 6. Do not explain.", 2),
    ],
)
def test_sentences(text: str, number: int) -> None:
    assert len(sentences(text)) == number


@pytest.mark.parametrize(
    "instruction",
    [
        "Fill in the table.\n| name | age |\n|------|-----|\n| Ada  |     |",
        "Fix the code below.\n```python\ndef f(x):\n    return x +\n```",
        "Label the review.\nText: a fine film\nLabel: positive\nText: a dull film\nLabel: negative",
    ],
)
def test_what_hangs_together_is_never_taken_apart(instruction: str) -> None:
    found = rewrites(instruction, ())
    indented = "\n".join(f"  {line}" for line in instruction.splitlines())
    assert len(found) > 3 and all(instruction in text or indented in text for text in found)
