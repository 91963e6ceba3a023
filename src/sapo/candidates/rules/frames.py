"""Frames for English instructions, in the order in which they are tried: neighbours differ in style and length."""

from __future__ import annotations

from sapo.candidates.rules.template import Frame

# For instructions whose parts are known.
ENGLISH = (
    Frame("bare", "[{before} ]{Ask.}[ {rest}]"),
    Frame("headings", "[Input: {given}\n][Context: {before}\n]Task: {ask.}[\nNotes: {notes}]"),
    Frame("verdict", "{Given}: {verdicts}?[ {rest}]"),
    Frame("answer last", "[You get {given.} ][{before} ]{Ask.}[ {rest}]\n\n{choices}?"),
    Frame("persona", "You are {persona}.[ You are handed {given.}][ {before}] Your job is to {ask.}[ {rest}]"),
    Frame("role", "As {role}, you have the following job: {first.}[ What you are given: {given.}][ {rest}]"),
    Frame("output", "[Input: {given}\n][Context: {before}\n]Task: {ask.}[\nNotes: {notes}]\nOutput: {choices}"),
    Frame("question", "[Here you have {given.} ][{before} ]Can you {ask}?[ {rest}]"),
    Frame(
        "elaborate",
        "[In what follows, you will be given {given.} ]Take the time to go through the input from beginning to end "
        "before you do anything else, so that nothing in it escapes you.[ {before}] When you have done so, {ask.}[ "
        "{rest}]",
    ),
    Frame("answers first", "{choices/}: it has to be one of these.[ You see {given.}][ {before}] {Ask.}[ {rest}]"),
    Frame("documentation", "This task asks you to {first.}[\n\nInput: {given.}][\n\nDetails: {notes}]"),
    Frame("classes", "[Data: {given}\n][{before}\n]Classes:\n{choices*}\n{Ask.}[ {rest}]"),
    Frame("list", "[- You are given {given.}\n][- {before}\n]- {Ask.}[\n{bullets}]"),
    Frame("passive", "[What is given: {given.} ][{before} ]{Passive.}[ {rest}]"),
    Frame("given", "Given {given}, {ask.}[ {rest}]"),
    Frame(
        "steps",
        "1. [Look at what you are given: {given.}|Look at the input.][\n2. Consider this: {before}\n3.|\n2.] {Ask.}[\n"
        "Notes:\n{bullets}]",
    ),
    Frame(
        "wish",
        "[So you get {given.} ][{before} ]What I'd like you to do is to {ask.}[ Please keep the following in "
        "mind. {notes}]",
    ),
    Frame("wanted", "Wanted: {product.}[ Given: {given.}][ {notes}]"),
    Frame("rules first", "Please observe the following:\n{rules}\n\n[You will receive {given.} ][{before} ]{Ask.}"),
    Frame("formal", "[The input consists of {given.} ][{before} ]The task at hand is to {ask.}[ {rest}]"),
    Frame(
        "dialogue",
        "[Q: What do I get?\nA: {Given.}\n][Q: What should I know first?\nA: {before}\n]Q: What am I supposed to do?\n"
        "A: {Ask.}[\nQ: Is there anything else?\nA: {notes}]",
    ),
    Frame("so", "[Look at this: {given.} ][{before} ]{Ask.}[ {rest}] So which is it: {choices}?"),
    Frame("please", "[Below you will find {given.} ][{before} ]Please {ask.}[ {rest}]"),
    Frame("exercise", "Exercise. [You have been given {given.} ][{before} ]{Ask.}[ {rest}]"),
    Frame(
        "scene",
        "Imagine that you are sitting at a desk and somebody puts a sheet of paper in front of you.[ On it you find "
        "{given.}][ {before}] It is now up to you to {ask.}[ {rest}]",
    ),
    Frame("one of", "[{Given} will be shown to you. ][{before} ]{Ask.}[ {rest}] The answer is one of: {choices,}."),
    Frame("gerund", "[What you are given: {given.} ][{before} ]The assignment consists in {asking.}[ {rest}]"),
    Frame("arrows", "[input -> {given}\n][context -> {before}\n]action -> {ask.}[\nremarks -> {notes}]"),
    Frame("whenever", "Whenever you are given {given}, you have to {ask.}[ {rest}]"),
    Frame(
        "markdown", "[## What is given\n{Given.}\n\n][## Context\n{before}\n\n]## Task\n{Ask.}[\n\n## Notes\n{bullets}]"
    ),
    Frame("need", "[Let me give you {given.} ][{before} ]I need you to {ask.}[ {rest}]"),
    Frame(
        "respondent",
        "[The respondent is given {given.} ][{before} ]The respondent is expected to {thirdly.}[ {rest}]",
    ),
    Frame("goal first", "Goal: {first.}[ Starting point: {given.}][ {notes}]"),
    Frame("kindly", "[You are hereby provided with {given.} ][{before} ]Would you be so kind as to {ask}?[ {rest}]"),
    Frame("teacher", "Dear students, here is your assignment for today. [You get {given.} ][{before} ]{Ask.}[ {rest}]"),
    Frame("question kept", "[{before} ]Here is a question for you: {question}[ {rest}]"),
    Frame("question last", "{rules.}\n\n{question}"),
    Frame("act as", "Act as {role}.[ You will receive {given.}][ {before}] {Ask.}[ {rest}]"),
    Frame("suppose", "Suppose that you are shown {given.}[ {before}] Then {ask.}[ {rest}]"),
    Frame("to do", "To do: {first.}[ Material: {given.}][\n{stars}]"),
    Frame(
        "responsibility",
        "[In this exercise, you have to deal with {given.} ][{before} ]It is your responsibility to {ask.}[ {rest}]",
    ),
    Frame("what to do", "What to do with {given}: {ask.}[ {rest}]"),
    Frame("tag please", "[What you have is this: {given.} ][{before} ]{Ask}, please.[ {rest}]"),
    Frame("asked", "[Presented with {given}, you|You] are asked to {ask.}[ {rest}]"),
    Frame("about", "[You will be working with {given.} ][{before} ]This is about {asking.}[ {rest}]"),
    Frame("fields", "TASK\n{First.}[\n\nINPUT\n{Given.}][\n\nREMARKS\n{lines}]"),
    Frame("product sought", "What is sought is {product.}[ What is available is {given.}][ {notes}]"),
    Frame("mission", "[You start from {given.} ][{before} ]Your mission is as follows: {ask.}[ {rest}]"),
    Frame("numbered rules", "[You will be handed {given.} ][{before} ]{Ask.}\n\nRules:\n{numbers}"),
    Frame("looking at", "Look at the input[, which consists of {given}].[ {before}] Now {ask.}[ {rest}]"),
    Frame("team", "Our team relies on your help.[ We will send you {given.}][ {before}] Please {ask.}[ {rest}]"),
    Frame(
        "data set",
        "We are preparing a data set, and we depend on people who follow instructions to the letter. Your "
        "contribution is the following.[ You will be shown {given.}][ {before}] {Ask.}[ {rest}]",
    ),
    Frame("question asked", "[{before}\n]Question: {question}[\n{lines}]"),
    Frame("purpose", "The purpose of this exercise is to {first.}[ The material provided: {given.}][ {rest}]"),
    Frame(
        "notes then task",
        "Before you begin, please take note. {rules.}\n[Now to the input: {given.} ][{before} ]And this is what you "
        "have to do: {ask.}",
    ),
    Frame("expected", "What is expected of you: {first.}[ What you have to work with: {given.}][ {notes}]"),
    Frame("could", "[Suppose I hand you {given.} ][{before} ]Could you {ask}?[ {rest}]"),
    Frame("guideline", "Guideline for annotators: [the data consist of {given.} ][{before} ]{Ask.}[ {rest}]"),
    Frame("working", "Working with {given}, {ask.}[ {rest}]"),
    Frame(
        "request",
        "[What you will be given is {given.} ][{before} ]I would be grateful if you could {ask.}[ {rest}]",
    ),
    Frame("instructions", "Instructions\n[* You will see {given.}\n][* {before}\n]* {Ask.}[\n{stars}]"),
    Frame("in short", "[You can expect {given.} ][{before} ]Put briefly, you have to {ask.}[ {rest}]"),
    Frame("your turn", "[Your material: {given.} ][{before} ]Now it is your turn to {ask.}[ {rest}]"),
    Frame("worksheet", "Worksheet\n[Material: {given.}\n][{before}\n]Exercise: {ask.}[\nMind this: {notes}]"),
    Frame("must", "[This is what you get: {given.} ][{before} ]You must {ask.}[ {rest}]"),
    Frame("tell me", "[{before} ]Tell me, please: {question}[ {rest}]"),
    Frame("objective", "Objective: to {first.}[ Data: {given.}][ {notes}]"),
)

# For texts that are taken as a whole. The longer one is, the more has to stand beside it for two of its rewrites to
# differ; hence the longer ones at the end.
ENGLISH_WHOLE = (
    Frame("whole, lines", "{lines}"),
    Frame("whole, instruction", "Instruction: {text}"),
    Frame("whole, list", "{bullets}"),
    Frame("whole, carry out", "Please carry out the following instruction.\n\n{text}"),
    Frame("whole, task", "## Task\n\n{text}"),
    Frame("whole, numbers", "{numbers}"),
    Frame("whole, do this", "This is what you have to do: {text}"),
    Frame("whole, assignment", "Your assignment reads as follows.\n\n{text}"),
    Frame("whole, quoted", "Follow the instruction between the two lines.\n---\n{text}\n---"),
    Frame("whole, job", "Here is a job for you, which you can do with the input below:\n{text}"),
    Frame("whole, guideline", "Guideline for the annotator\n===========================\n{text}"),
    Frame("whole, please", "Would you please do the following with the input? {text}"),
    Frame("whole, ticket", "Request:\n\n* {text}\n\nInput: see below."),
    Frame("whole, steps", "Step 1: look at the input.\nStep 2: do as you are told here.\n{text}"),
    Frame("whole, exercise", "Exercise for today, dear students: {text}"),
    Frame("whole, dialogue", "Q: What am I supposed to do with the input?\nA: {text}"),
    Frame("whole, spec", "task: |\n{indented}"),
    Frame("whole, persona", "You are an assistant who does exactly what an instruction says. It says: {text}"),
    Frame("whole, you are asked", "In this exercise, you are asked for nothing but what is stated here. {text}"),
    Frame("whole, bold", "**{text}**"),
    Frame(
        "whole, note",
        "A colleague has gone on holiday and left a note on your desk, asking you to take over one piece of work. The "
        "note reads:\n\n{text}",
    ),
    Frame(
        "whole, memo",
        "Memo\nTo: the person in charge of the input below\nFrom: the coordinator\nSubject: what is to be done with "
        "it\n\n{text}",
    ),
    Frame(
        "whole, applies below",
        "{text}\n\nThat is all there is to it. The input follows, and what has just been said applies to it from its "
        "first word to its last.",
    ),
    Frame(
        "whole, workshop",
        "Good morning, and welcome to the workshop. Every participant gets the same sheet with the same exercise, and "
        "nobody needs to know more than the sheet says.\n\n{text}\n\nYou may begin.",
    ),
    Frame(
        "whole, concern",
        "To whom it may concern: you are kindly requested to deal with the input in the manner set out here, and to "
        "deviate from it in no respect. {text}",
    ),
    Frame(
        "whole, divided",
        "This is how the work is divided: somebody else has collected the inputs, and you take care of the rest. What "
        "you have to do has been written down for you in full.\n{text}",
    ),
    Frame(
        "whole, handbook",
        "Extract from the handbook, section on the treatment of inputs. Whoever receives an input proceeds as "
        "described.\n\n{text}\n\nEnd of the extract.",
    ),
    Frame(
        "whole, told",
        "Q: I have an input in front of me, but I have not been told what I am supposed to do with it. Would you tell "
        "me?\nA: Gladly. {text}",
    ),
    Frame(
        "whole, examination",
        "Picture an examination hall. The papers are handed out, the clock starts, and on the first page you read "
        "these lines.\n\n{text}",
    ),
    Frame(
        "whole, contract",
        "Contract of work, clause 1. The contractor treats the input in accordance with the following terms, which "
        "are complete.\n{text}",
    ),
    Frame(
        "whole, two people",
        "Think of two people who work well together: one of them says what is needed, and the other one does it. You "
        "are the other one. {text}",
    ),
    Frame(
        "whole, awaits",
        "An input awaits you below these lines. Before you turn to it, make sure that you know what is wanted; every "
        "word of this description counts. {text}",
    ),
    Frame(
        "whole, specification",
        "Specification\n-------------\nScope: the input that comes after this specification.\nRequirement: {text}\n"
        "Status: in force.",
    ),
    Frame(
        "whole, twice",
        "You have been chosen for this job because you are known to read instructions twice before you act. So read "
        "these twice as well. {text}",
    ),
    Frame(
        "whole, manager",
        "Your manager drops by and explains what has to be done with the next item on the pile. What you are told is "
        "this.\n\n{text}",
    ),
    Frame(
        "whole, doubt",
        "Let us be clear about what is wanted, so that no doubt remains when you come to the input further down.\n\n"
        "{text}\n\nNow go ahead.",
    ),
)
