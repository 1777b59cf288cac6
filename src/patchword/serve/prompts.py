"""Whether the text beside an image asks a question about it, or asks for a caption."""

from __future__ import annotations

import re

# English words that a question begins with, where it does not end in a question mark.
QUESTION_WORDS = re.compile(
    r"(what|which|who|whose|where|when|why|how|is|are|was|were|do|does|did|can|has|have)\b", re.I
)
DESCRIPTION_WORDS = re.compile(r"descri|caption|image|photo|picture|see\b", re.I)

PICTURE = r"(?:image|photo|photograph|picture|pic|drawing|screenshot)"
THIS = rf"(?:(?:this|that|the|my|attached) )+{PICTURE}"
HERE = rf"(?: here| (?:in|on) (?:{THIS}|this))"
SHOWN = r"(?: (?:shown|seen|depicted|visible|displayed|happening|going on|there))"
CAPTION_QUESTIONS = (  # in lower case, without punctuation at the end
    rf"what(?: is|'s|s){SHOWN}?{HERE}",
    r"what(?: is|'s|s) (?:this|that|it)",
    r"what(?: is|'s|s) (?:happening|going on)",
    rf"what(?: is|'s|s) (?:{THIS}|this|that|it)(?: an? {PICTURE})? (?:of|about|showing)",
    rf"what does (?:{THIS}|this|it) (?:show|depict|contain|display)",
    rf"what (?:do|can) (?:you|we|i) see{HERE}?",
    rf"what can be seen{HERE}?",
    r"what am i looking at",
    rf"what (?:{THIS}|this) shows",
    rf"(?:describe )?what you (?:can )?see{HERE}?",
    rf"(?:describe|caption|summari[sz]e|explain) (?:{THIS}|this|it)",
)
POLITE = r"(?:(?:please|hi|hello|hey|(?:can|could|would|will) you|tell me)[, ]+)*"
ENGLISH = re.compile(rf"{POLITE}(?:{'|'.join(CAPTION_QUESTIONS)})(?:,? please)?")

PHOTO = r"(?:[这那此该]?[张幅个]?(?:图片|图像|照片|相片|画面|图)(?:里面|[里中上内])?)"
SEES = r"(?:你?(?:能|可以)?(?:看到|看见)了?|都?有|[都讲]?的?是|(?:显示|展示|描述|描绘|包含)了?)"
CHINESE = re.compile(
    rf"(?:请问|请)?(?:[这那]|{PHOTO}(?:的?内容)?)?{SEES}些?(?:什么|啥)(?:东西|内容)?[呢啊呀]?"
    rf"|(?:请问|请|你|能否|能不能|能|可以|帮我|给我)*(?:描述|介绍|说明)(?:一下)?{PHOTO}(?:的?内容)?吗?"
)


def is_question(text: str) -> bool:
    """Whether a text asks something about an image: it ends in a question mark, or begins with a
    question word."""
    return text.rstrip().endswith(("?", "？")) or bool(QUESTION_WORDS.match(text.lstrip()))


def asks_for_caption(text: str) -> bool:
    """Whether a question, in English or Chinese, asks what the whole image shows, such as "What is
    in this image?"."""
    words = " ".join(text.lower().replace("’", "'").split()).rstrip("?？.。!！ ")
    return bool(ENGLISH.fullmatch(words) or CHINESE.fullmatch(words))


def describes(text: str) -> bool:
    """Whether a text that is no question asks for a description."""
    return bool(DESCRIPTION_WORDS.search(text)) or asks_for_caption(text)
