"""Text cleaning before the tokenizer.

Most kinds are those of open_clip (`get_clean_fn` of open_clip/tokenizer.py), which the original
code of CLIP and SigLIP shares. Two are those of the SigLIP tokenizers of transformers.
"""

from __future__ import annotations

import html
import re
import string
from itertools import pairwise

PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII

# A sentence ends at . ! ? before white space, at 。！？, and at the end of a line. Closing quotes
# and brackets belong to it, and so does the white space that follows.
CLOSING = "[\"'”’»)\\]」』）】》]*"
SENTENCE_END = re.compile(rf"(?<![.!?])[.!?]+{CLOSING}\s+|[。！？]+{CLOSING}\s*|\n\s*")
WORD = re.compile(r"\s*\S+\s*|\s+")


def clean(text: str, kind: str) -> str:
    """`text` as the tokenizer gets it; kind: TextConfig.cleaning.

    "none"            unchanged
    "whitespace"      mojibake repaired, HTML entities resolved, white space collapsed
    "lower", "ftfy"   like "whitespace", in lower case
    "canonicalize"    like "lower", "_" becomes a space, other ASCII punctuation is removed
                      (big_vision, prompt_engineering.py)
    "lowercase"       in lower case, character by character (Siglip2Tokenizer)
    "unpunctuated"    in lower case, ASCII punctuation removed, white space collapsed
                      (SiglipTokenizer)
    """
    if kind == "none":
        return text
    if kind == "lowercase":
        return "".join(map(str.lower, text))
    if kind == "unpunctuated":
        return " ".join(text.lower().translate(PUNCTUATION).split())
    # ftfy would return printable ASCII without entities unchanged: most prompts skip it.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # loaded only for the texts that need it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(PUNCTUATION).lower()
    text = " ".join(text.split())
    return text if kind in ("whitespace", "canonicalize") else text.lower()


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined, they are the text."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return [text[a:b] for a, b in pairwise([0, *ends, len(text)]) if a < b]


def words(text: str) -> list[str]:
    """The words of a text, each with the white space around it: joined, they are the text."""
    return WORD.findall(text)
