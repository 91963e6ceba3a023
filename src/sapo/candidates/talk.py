"""Whether a text is nothing but an instruction: no preamble, refusal, marker or placeholder of a language model."""

from __future__ import annotations

import regex
from rapidfuzz import fuzz

from sapo.models.layout import CHAT_PIECE

MARKERS = "markers of a chat or a template"
_CHATTY = {
    "an assistant's preamble": r"""
        ^\W*(sure|certainly|absolutely|of\ course|no\ problem|here\ you\ go|there\ you\ go|got\ it|gotcha|roger\ that
            |(good|great|excellent)\ question|happy\ to\ oblige)\b[^.\n]{0,20}?[!,.:]
        | ^\W*(okay|ok|alright|great|yes|yep|hmm)\b[^\n]{0,20}\b(here('s|\ is|\ are)\ (a|one|the|your|my)\b|let\ me
            |i\ will|i'll|i\ can|the\ user)\b
        | ^\W*here('s|\ is|\ are)\ (a|an|the|my|your|one|some|\w+)\b[^.\n]{0,40}\b
            (version\w*|instruction\w*|rewrit\w*|alternativ\w*|variation\w*|take|ideas|text)\b
        | ^[^.\n]{0,60}\b(rewritten|rewrite|put\ differently)\W{0,3}:
        | ^\W*(original|variation|version|variant|rewritten|alternative|option|take|draft|casual|formal|expanded
            |shorter|short\ version|final\ (answer|version)|response|before|after)(\ (\w+|\([^)]*\)))?\W{0,3}:
        | ^\W*(version|variant|variation|draft|v)\ ?\d+\b
        | (one|another)\ way\ (of\ (wording|saying|putting|phrasing)|to\ (word|say|put|phrase))\ it
        | ^\W*\#+\s*(rewrit|version)
        | ^(好的|当然|没问题|以下是|改写)[^。]{0,12}[！!：:，,]
        | 改写(后|如下|版|[一二三四五六七八九十\d]+\s*[：:])
    """,
    "talk about the paraphrase": r"""
        \b(paraphrase[ds]?|paraphrasing|reword(ed|ing|s)|reformulat(ed?|ion|ing)|rephras(ed|ing|es))\b
        | \b(this|your|my|the\ (above|new|original|revised))\ (prompt|instruction|wording|phrasing|request)\b
        | \bprompt\ template\b
        | \b(let\ me\ know|feel\ free\ to\ (ask|adapt|change|modify|adjust|use|edit)|would\ you\ like\ me|shall\ i
            |do\ you\ want\ me|i\ (hope|trust)\ (this|that|it)|(happy|glad|delighted)\ to\ (help|make|adjust|refine
            |provide)|good\ luck\ with|as\ (you\ )?(requested|asked|wanted)|as\ per\ your|per\ the\ style
            |another\ version|further\ (versions|revisions)|more\ (formal|versions|alternatives|options|ideas)
            |does\ that\ make\ sense|you're\ welcome|thank\ you\ for\ your|thanks\ for\ (reaching|your)
            |coming\ right\ up|best\ of\ luck|hope\ (this|that|it)\ helps|at\ your\ disposal)\b
        | ^\W*(enjoy|happy\ fine-tuning|ta-da|voil[aà]|finished|good\ catch|note\ to\ self)\b\W*[!:,.]
        | \bi\ (changed|replaced|rephrased|rewrote|preserved|shortened|assumed\ (the|that|you)|counted\ the
            |took\ the\ liberty|understand\ that\ you|believe\ (this|that\ this)|did\ not\ repeat|did\ not\ mention)\b
        | \b(i've|i\ have|we've|we\ have)\ (left|added|kept|put|taken\ care|gone|mixed|removed|split|turned|rewritten
            |changed|replaced|preserved|shortened|made\ it|used|avoided|dropped|tried)\b
        | \bi\ (kept|added|dropped|removed|avoided|left\ out|swapped|split)\ (the|a|an|all|it|out)\b
        | \b(i'll|i\ will|i\ need\ to)\ (stop\ here|now|write\ (the|a)|rewrite|make\ sure\ that\ i|look\ at)\b
        | \bthis\ (version|variant|keeps|preserves|retains|maintains|captures)\b
        | \b(keeps?|kept|keeping|retains?|preserv\w+|maintain\w+)\ the\ (\w+\ )?(original\ )?(meaning|sense|intent
            |labels?)\b
        | \b(the|a)\ (concise|shorter|longer|previous|rewritten|revised)\ (version|wording|instruction|prompt)\b
        | ^\W*(rationale|changes(\ made)?|explanation(\ of\ changes)?|notes?\ on\ (the\ )?(changes|wording)
            |key\ differences|summary\ of\ edits|commentary|why\ this\ works|tone|strategy)\W*(:|$)
        | \b(changes\ made|word\ count|tokens\ used)\b | \(\d+\ words\) | \(note:\ | <--
        | 请随时|其他版本|说明：我|如有需要|希望(这|对)
    """,
    "a refusal": r"""
        \b(i'm|i\ am)\ (sorry|afraid|unable|not\ able)\b | \bas\ an\ ai\b | \bi\ apologi[sz]e\b | ^\W*(sorry
            |apologies)\b
        | \bi\ (can't|cannot|can\ not|won't|will\ not|could\ not|couldn't)\ (help|assist|do|fulfil|comply|rewrite
            |provide|process|reproduce|generate|continue|answer|create|see|access|complete|access)\b
        | \b(you\ have\ not|you\ haven't|you\ did\ not|you\ didn't)\ (included?|provided?|pasted?|supplied?|given
            |specify)\b
        | \b(please|kindly)\ (paste|provide|share|supply|send)\b[^.]{0,40}\b(so\ that\ i|and\ i|here|them|it)\b
        | \bi\ don't\ (have\ access|quite\ understand)\b | \b(is|are)\ missing\ from\ your\b | \bwaiting\ for\ (the
            |your)\b
        | \blanguage\ model\b | \bmy\ (guidelines|knowledge|training\ data)\b
        | 抱歉|对不起|作为一个?(人工智能|AI|语言模型)
    """,
    MARKERS: rf"""
        {CHAT_PIECE} | ``` | \#\#\#?\s*(instruction|response|input)\b
        | </?(instruction|paraphrase|answer|original|suffix|text|prompt|response|passage|ending|words)\d*>
    """,
    "a placeholder": r"""
        \{\{?\s*\w*\s*\}?\} | %[sd]\b | \$\{\w+\} | <(your|insert|input|text|the)[^>\n]{0,30}> | \bXXX\b
            | lorem\ ipsum
        | \[\s*(insert|your|todo|placeholder|fill|add|enter|input|text\ here|link\ here|name|truncated)\b[^\]\n]*\]
        | \[(label|option|text|input|sentence|passage)\ ?\d*\]
        | 【此处[^】]*】 | \[此处[^\]]*\]
    """,
    "an example of its own": r"""
        \b(example|sample|expected)\ (input|output|answer)\b | ^\s*(your\ )?(input|question|text|answer|output)\s*:\s*\Z
        | \b(input|output|question|answer)\s*:\s*(\[|%|\{|<) | \binput\s*:\s*["“][^"”\n]+["”]\.?\s+(→\ *)?output\s*:
    """,
}
_PATTERNS = {
    name: regex.compile(pattern, regex.IGNORECASE | regex.VERBOSE | regex.MULTILINE)
    for name, pattern in _CHATTY.items()
}
_LISTED = regex.compile(r"\s*(?:[-*•]|\(?\d{1,2}[.):])\s*(.+)")
# Items of at least so many words, that share so much of them (rapidfuzz's token set ratio), are versions.
_SENTENCE, _SAME = 4, 60


def chatty(original: str, text: str) -> str | None:
    """Return why a text is more than an instruction, or None; what the original holds itself is no reason."""
    for name, pattern in _PATTERNS.items():
        if pattern.search(text) and not pattern.search(original):
            return f"holds {name}"
    if text.lstrip().startswith(("{", "[{")) and not original.lstrip().startswith(("{", "[{")):
        return "is data (JSON), not an instruction"
    return "is a list of versions" if _lists_versions(text) else None


def _lists_versions(text: str) -> bool:
    """Whether the lines are several wordings of one instruction, numbered or behind bullets."""
    lines = [line for line in text.splitlines() if line.strip()]
    items = [found.group(1) for line in lines if (found := _LISTED.match(line))]
    if len(items) < 2 or len(items) < len(lines) or min(len(item.split()) for item in items) < _SENTENCE:
        return False
    alike = [fuzz.token_set_ratio(a.casefold(), b.casefold()) for n, a in enumerate(items) for b in items[:n]]
    return sum(alike) / len(alike) >= _SAME
