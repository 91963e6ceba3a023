"""Chinese instructions: their parts, other words, and frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import regex

from sapo.candidates.rules.sentences import fixed, sentences
from sapo.candidates.rules.template import Frame

_VERBS = (
    "判断|判定|辨别|识别|确定|分析|总结|概括|归纳|翻译|提取|抽取|找出|选出|选择|挑选|回答|解答|给出|写出|写|生成|编写|撰写|分类|归类|改写|润色|续写"
    "|计算|求解|解决|比较|解释|列出|标注|评价|评估|预测|阅读|检查|纠正|补全|填写|推断|输出|指出|描述|根据|依据|按照|将|把|对"
)
_MARKED = regex.compile(r"(?:\p{L}|\d+)\s?[.．、:：)）]\s?\p{Han}+")
_PHRASES: dict[str, tuple[str, ...]] = {
    "判断": ("判定", "确定", "辨别"),
    "以下": ("下列", "下面的", "如下"),
    "下面的": ("以下", "下列"),
    "指定对象": ("所指定的对象", "给定对象", "指定的对象"),
    "选择一项": ("选出一项", "从中选取一项", "挑选一项"),
    "选择": ("选取", "挑选", "选出"),
    "输出": ("给出", "回答", "写出"),
    "或者": ("或", "或是"),
    "态度": ("立场", "态度"),
    "总结": ("概括", "归纳"),
    "概括": ("总结", "归纳"),
    "提取": ("抽取", "找出"),
    "根据": ("依据", "按照"),
    "回答问题": ("解答问题", "作答"),
    "生成": ("写出", "给出"),
    "给定的": ("所给的", "给出的"),
    "所给的": ("给定的", "给出的"),
    "需要": ("须要", "要"),
    "必须": ("务必", "一定要"),
    "应该": ("应当", "应"),
    "是否": ("是不是", "是否"),
    "不要": ("请勿", "切勿"),
}
_PATTERN = regex.compile("|".join(sorted(_PHRASES, key=len, reverse=True)))

_R = "[{rest}]"
CHINESE = (
    Frame("bare", "{lines}"),
    Frame("headings", "任务：{first}。[\n说明：{rest}]"),
    Frame("persona", "你是一名助手，手头的工作是：{first}。" + _R),
    Frame("question", "能否请你{ask}？" + _R),
    Frame("list", "{bullets}"),
    Frame("steps", "第一步，阅读输入的内容。\n第二步，{first}。[\n注意：{rest}]"),
    Frame("please", "请{ask}。" + _R),
    Frame("documentation", "本任务的要求如下：{first}。[{rest}]所需的材料将在后面给出。"),
    Frame("rules first", "请遵守以下规定：{rest}\n你要完成的任务是：{first}。"),
    Frame("dialogue", "问：我要做什么？\n答：{first}。[\n问：还有什么要注意的？\n答：{rest}]"),
    Frame("formal", "兹有一项任务，请予办理：{first}。" + _R),
    Frame("markdown", "## 任务\n{first}。[\n\n## 要求\n{rest}]"),
    Frame("help", "麻烦你帮个忙，{first}。" + _R),
    Frame("numbers", "{numbers}"),
    Frame("teacher", "同学们，今天的练习是这样的：{first}。" + _R),
    Frame("your task", "你的任务是{ask}。" + _R),
    Frame("arrow", "要做的事 → {first}。[\n须知 → {rest}]"),
    Frame("read", "请先阅读所给的内容，然后{ask}。" + _R),
    Frame("goal", "目标：{first}。[\n\n要求：{rest}]"),
    Frame("suppose", "假设这项工作交给了你：{first}。[{rest}]现在就请完成它。"),
    Frame("need", "我需要你{ask}。" + _R),
    Frame("exam", "练习题\n\n{first}。[\n\n作答要求：{rest}]"),
    Frame("assistant", "交给你的工作，请照下面的指示来做：{first}。" + _R),
    Frame("guideline", "标注规范\n* {first}。[\n* {rest}]"),
    Frame("question how", "拿到输入之后该做什么呢？{first}。" + _R),
    Frame("turn", "现在轮到你了：{first}。" + _R),
    Frame("short", "一句话，就是要{ask}。" + _R),
    Frame("instruction", "指令：“{first}。[{rest}]”"),
    Frame("could", "可以{ask}吗？" + _R),
    Frame("kindly", "敬请{ask}，谢谢。" + _R),
    Frame("ticket", "【工作内容】{first}。[【补充说明】{rest}]"),
    Frame("hope", "希望你能够{ask}。" + _R),
    Frame("respondent", "答题者须{ask}。" + _R),
    Frame("asked", "在这个练习里，你会看到一份输入，要求是：{first}。" + _R),
)

# For texts that cannot be put inside of a sentence.
CHINESE_WHOLE = (
    Frame("whole, instruction", "指令：{text}"),
    Frame("whole, carry out", "请执行下面的指令。\n\n{text}"),
    Frame("whole, dialogue", "问：拿到输入之后，我该做什么？\n答：{text}"),
    Frame("whole, markdown", "## 任务\n\n{text}"),
    Frame("whole, teacher", "同学们，今天的练习题如下，请认真看题。\n{text}"),
    Frame("whole, formal", "兹有一项任务，具体要求见下文，请按要求办理。\n\n{text}"),
    Frame("whole, help", "麻烦你帮个忙，要做的事情是这样的。{text}"),
    Frame("whole, guideline", "标注规范（供标注人员使用）\n----------\n{text}"),
    Frame("whole, note", "同事休假之前在你的桌上留了一张便条，请你接手一项工作。便条上写着：\n\n{text}"),
    Frame("whole, steps", "第一步，看清输入的内容。\n第二步，按照这里的说明去做。\n{text}"),
    Frame("whole, examination", "考试开始了，试卷发到了你的手里，第一页上印着这样几行字。\n\n{text}"),
    Frame("whole, below", "{text}\n\n要求就是这些，输入的内容附在后面，请据此处理。"),
    Frame("whole, memo", "工作备忘\n收件人：负责处理输入的人员\n事由：需要完成的工作\n\n{text}"),
    Frame("whole, turn", "现在轮到你来完成这项工作了，说明如下。\n{text}"),
    Frame("whole, ticket", "【工作内容】{text}【材料】见后文"),
    Frame("whole, team", "我们的团队需要你的协助。分给你的这一部分工作，说明全都写在这里：\n{text}"),
    Frame("whole, handbook", "摘自操作手册：凡收到输入者，均照此处理。\n\n{text}\n\n（摘录完）"),
)


def chinese_slots(text: str, wording: int, labels: Sequence[str]) -> Mapping[str, str]:
    """Return the slots of a Chinese frame for an instruction in one of its wordings; 0 is the original's own."""
    found = [_exchanged(sentence, wording, labels) for sentence in sentences(text)]
    first = regex.sub(r"^(?:请你?|麻烦你?|请您)", "", found[0].rstrip("。．. "))
    whole = "\n" in first or first.endswith(("？", "?", "！", "!", "：", ":", "”", "」"))
    commanded = not whole and regex.match(_VERBS, first) is not None
    return {
        "first": "" if whole else first,
        "ask": first if commanded else "",
        "rest": "".join(found[1:]),
        "text": "\n".join(found) if "\n" in text else "".join(found),
        "lines": "\n".join(found),
        "bullets": "\n".join(f"- {sentence}" for sentence in found),
        "numbers": "\n".join(f"{n}. {sentence}" for n, sentence in enumerate(found, start=1)),
    }


def _exchanged(sentence: str, wording: int, labels: Sequence[str]) -> str:
    if not wording:
        return sentence
    count = 0

    def other(match: regex.Match[str]) -> str:
        nonlocal count
        count += 1
        choices = _PHRASES[match.group()]
        return match.group() if wording > 3 and (count + wording) % 3 == 0 else choices[wording % len(choices)]

    pieces = list(fixed(sentence, labels))
    for n in range(0, len(pieces), 2):
        # "A.支持": what a mark stands in front of is an answer's text.
        kept = regex.split(f"({_MARKED.pattern})", pieces[n])
        pieces[n] = "".join(_PATTERN.sub(other, piece) if k % 2 == 0 else piece for k, piece in enumerate(kept))
    return "".join(pieces)
