"""English phrases and what may stand in their place: only such as mean the same wherever instructions use them."""

from __future__ import annotations

from sapo.candidates.rules.verbs import word_set

_ACTIONS: dict[str, tuple[str, ...]] = {
    "generate": ("produce", "write", "come up with"),
    "generates": ("produces", "writes", "comes up with"),
    "generating": ("producing", "writing", "coming up with"),
    "craft": ("compose", "formulate", "write"),
    "classify": ("categorize",),
    "choose": ("select", "pick", "opt for"),
    "choosing": ("selecting", "picking", "opting for"),
    "select": ("choose", "pick", "opt for"),
    "determine": ("decide", "establish", "work out"),
    "determine whether": ("decide whether", "judge whether", "establish whether"),
    "determine if": ("decide if", "judge if", "establish if"),
    "determine the": ("identify the", "establish the", "work out the"),
    "decide whether": ("determine whether", "judge whether", "establish whether"),
    "decide if": ("determine if", "judge if", "establish if"),
    "indicate whether": ("state whether", "say whether", "specify whether"),
    "indicate your choice as": ("state your choice as", "give your choice as", "mark your choice as"),
    "identify the": ("determine the", "find the", "pick out the"),
    "find the": ("identify the", "determine the", "pick out the"),
    "extract the": ("identify the", "pick out the", "pull out the"),
    "extract all": ("pull out all", "pick out all", "collect all"),
    "answer the question": ("respond to the question", "reply to the question", "give an answer to the question"),
    "answer a question": ("respond to a question", "reply to a question", "give an answer to a question"),
    "answer this question": ("respond to this question", "reply to this question", "give an answer to this question"),
    "write answers to": ("give answers to", "provide answers to", "formulate answers to"),
    "solve the": ("work out the", "find the solution to the"),
    "give your reasons": ("state your reasons", "provide your reasons", "name your reasons"),
    "try to": ("do your best to", "aim to", "seek to"),
    "make sure that": ("ensure that", "see to it that", "make certain that"),
    "make sure to": ("be sure to", "take care to", "remember to"),
    "make sure": ("ensure that", "see to it that", "make certain that"),
    "rewrite the": ("reword the", "rephrase the", "reformulate the"),
    "vary your language": ("change your wording", "use varied language", "vary your wording"),
    "use a response": ("choose a response", "give a response", "provide a response"),
    "as few words as possible": ("as few words as you can", "the fewest possible words"),
    "by searching and reading": ("by looking up and reading", "through searching and reading"),
    "by adding": ("by contributing", "by introducing", "by bringing in"),
    "using": ("by means of", "employing", "with the help of"),
    "expand on": ("build on", "elaborate on", "enlarge on"),
    "responds by": ("replies by", "answers by", "reacts by"),
    "explicitly saying": ("expressly saying", "openly saying", "saying outright"),
    "specifically saying": ("actually saying", "literally saying", "in fact saying"),
    "acted ethically": ("behaved ethically", "acted in an ethical way", "conducted themselves ethically"),
}  # fmt: skip
_MANNER: dict[str, tuple[str, ...]] = {
    "based on your": ("on the basis of your", "drawing on your", "relying on your"),
    "based on its": ("on the basis of its", "according to its", "going by its"),
    "based on": ("on the basis of", "according to", "going by"),
    "according to": ("based on", "on the basis of", "going by"),
    "in a sentence": ("in one sentence", "in a single sentence", "using one sentence"),
    "in one sentence": ("in a single sentence", "using one sentence"),
    "such that": ("so that", "in such a way that"),
    "in order to": ("so as to",),
    "to make it more interesting": ("to make this more interesting", "for it to be more interesting"),
    "if possible": ("where possible", "whenever possible", "if you can"),
    "whether or not": ("whether",),
    "instead of": ("rather than", "as opposed to", "in place of"),
    "with respect to": ("regarding", "concerning", "in relation to"),
    "in terms of": ("as regards", "with regard to"),
    "although": ("though", "even though"),
    "because": ("since",),
    "if you think": ("if you believe", "if you find", "in case you think"),
    "for each": ("for every",),
    "as part of": ("in the course of", "within"),
    "on top of": ("in addition to", "over and above", "beyond"),
    "consistent with": ("in agreement with", "in keeping with", "in accordance with"),
    "explicitly": ("expressly", "openly"),
    "implicitly": ("tacitly", "indirectly"),
    "reasonably": ("fairly", "suitably", "sufficiently"),
    "respectively": ("in that order",),
    "so that it is less predictable": ("so that it is harder to predict", "to make it less predictable"),
    "to be less repetitive": ("for less repetition", "to avoid repetition"),
}  # fmt: skip
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "has to be": ("must be", "needs to be", "is required to be"),
    "have to be": ("must be", "need to be", "are required to be"),
    "should": ("ought to",),
    "should not": ("ought not to",),
    "don't need to": ("do not have to", "need not", "are not obliged to"),
    "do not need to": ("don't have to", "need not", "are not obliged to"),
    "does not require": ("does not call for", "does not depend on", "does not presuppose"),
    "requires": ("calls for", "needs", "demands"),
    "does not belong": ("does not fit in",),
    "can have only": ("have only", "allow only", "admit only"),
    "have been replaced with": ("have been replaced by", "were exchanged for"),
    "has been replaced with": ("has been replaced by", "was exchanged for"),
    "are separated by": ("are set apart by", "are divided by", "have been separated by"),
    "is separated by": ("is set apart by", "is divided by", "has been separated by"),
    "indicate female and male": ("stand for female and male", "denote female and male", "mean female and male"),
    "there are many ways in which": ("there are numerous ways in which", "there are a great many ways in which"),
    "it could be the case": ("this may be the case", "that may happen", "this can happen"),
    "could": ("may", "might", "can"),
    "suggests that": ("says that", "holds that", "tells us that"),
    "agrees with": ("is in line with", "is consistent with", "is in keeping with"),
    "will get": ("will have", "will gain", "will obtain"),
    "it includes": ("it contains", "it covers"),
    "has stated": ("has said", "has put forward", "has just said"),
    "was constructed by": ("was set up by", "was built up by", "was created by"),
    "which caused humor": ("which gave rise to humor", "which led to humor", "which was the cause of humor"),
}  # fmt: skip
_THINGS: dict[str, tuple[str, ...]] = {
    "the given": ("the provided", "the supplied"),
    "given in input": ("given in the input", "contained in the input", "found in the input"),
    "given in the input": ("contained in the input", "found in the input"),
    "in the bulgarian language": ("in Bulgarian", "written in Bulgarian"),
    "from amazon": ("taken from Amazon", "posted on Amazon", "found on Amazon"),
    "from movie reviews": ("taken from movie reviews", "drawn from movie reviews", "found in movie reviews"),
    "describing the relationship": ("expressing the relationship", "stating the relationship"),
    "a participant in a dialogue": ("someone taking part in a dialogue", "a party to a dialogue"),
    "line of thought": ("train of thought", "way of thinking"),
    "new information": ("fresh information", "further information", "additional information"),
    "further information": ("more information", "additional information"),
    "rule-of-thumb": ("rule of thumb", "guideline"),
    "another speaker": ("a different speaker", "some other speaker"),
    "newline character": ("line break",),
    "small conversation": ("short conversation", "brief conversation"),
    "short summary": ("brief summary",),
    "math problem": ("mathematical problem", "mathematics problem"),
    "two persons": ("two people",),
    "multiple": ("several", "a number of", "various"),
    "numerous": ("many",),
    "an appropriate": ("a suitable", "a fitting", "an apt"),
    "single-sentence summary": ("one-sentence summary", "summary of a single sentence", "summary in one sentence"),
    "most reasonable": ("most sensible", "most plausible"),
    "plausible": ("credible", "likely", "conceivable"),
    "more probable": ("more likely",),
    "uncommon": ("unusual", "out of the ordinary"),
}  # fmt: skip
_ARTICLES = ("the", "a", "an", "this", "each", "these", "what")
_INPUTS = (
    "text", "question", "sentence", "passage", "article", "review", "problem", "math problem", "paragraph", "tweet",
    "word", "document", "story", "conversation", "dialogue", "news article", "news headline", "headline", "statement",
    "email", "message", "post", "comment", "sentences", "questions", "words", "code",
)  # fmt: skip
_RESULTS = (
    "answer", "summary", "response", "output", "label", "sentence", "title", "translation", "explanation", "question",
    "reply", "text", "result", "headline", "relation", "list",
)  # fmt: skip

PHRASES: dict[str, tuple[str, ...]] = {
    **_ACTIONS,
    **_MANNER,
    **_STATEMENTS,
    **_THINGS,
    **{f"summarize {the}": (f"sum up {the}", f"give a summary of {the}", f"condense {the}") for the in _ARTICLES},
    **{f"the following {noun}": (f"the {noun} below", f"the given {noun}", f"the {noun} provided") for noun in _INPUTS},
    **{f"{noun} must": (f"{noun} has to", f"{noun} needs to", f"{noun} is required to") for noun in _RESULTS},
    **{f"{noun} should": (f"{noun} ought to", f"{noun} needs to") for noun in _RESULTS},
    # Longer than those above, so that they are not taken apart.
    **{f"{noun} should not": (f"{noun} ought not to",) for noun in _RESULTS},
    **{f"{noun} must not": (f"{noun} may not",) for noun in _RESULTS},
}

# First words of a sentence that something else may be put in front of: those that begin with an adverbial clause or
# phrase, and all that are no names.
ADVERBIAL = word_set(
    """
    if when whenever while although though in on at for from with without to by as once after before because since
    unless until where wherever during instead besides according based depending
    """
)
LOWERED = ADVERBIAL | word_set(
    """
    the a an each every all any some most many few both either neither no only there you your we our it its it's their
    they this that these those he she his her words sentences answers questions texts labels one two three
    """
)
