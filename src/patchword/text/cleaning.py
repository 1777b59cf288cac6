"""Text cleaning before the tokenizer.

Most kinds are open_clip's (`get_clean_fn` of open_clip/tokenizer.py), which OpenAI's CLIP and
SigLIP's original code share; two are those of transformers' SigLIP tokenizers.
"""

from __future__ import annotations

import html
import re
import string
from itertools import pairwise

PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII

# A sentence ends after . ! ? and white space, after 。！？ without any, and with the line. Closing
# quotes and brackets belong to it, and so does the white space that follows.
CLOSING = "[\"'”’»)\\]」』）】》]*"
SENTENCE_END = re.compile(rf"(?<![.!?])[.!?]+{CLOSING}\s+|[。！？]+{CLOSING}\s*|\n\s*")
WORD = re.compile(r"\s*\S+\s*|\s+")


def clean(text: str, kind: str) -> str:
    """`text` as the tokenizer gets it; kind: TextConfig.cleaning.

    "none"          unchanged
    "whitespace"    mojibake repaired, HTML entities resolved, white space collapsed
    "lower", "ftfy" the same in lower case
    "canonicalize"  and "_" a space, and no ASCII punctuation (big_vision, prompt_engineering.py)
    "lowercase"     in lower case, letter by letter (Siglip2Tokenizer)
    "unpunctuated"  in lower case, no ASCII punctuation, white space collapsed (SiglipTokenizer)
    """
    if kind == "none":
        return text
    if kind == "lowercase":
        return "".join(map(str.lower, text))
    if kind == "unpunctuated":
        return " ".join(text.lower().translate(PUNCTUATION).split())
    # Printable ASCII without entities is what ftfy returns unchanged, so most prompts skip it.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # loaded only for the texts that need it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(PUNCTUATION).lower()
    text = " ".join(text.split())
    return text if kind in ("whitespace", "canonicalize") else text.lower()


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined, they are the text."""
    cuts = [0, *(end.end() for end in SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def words(text: str) -> list[str]:
    """The words of a text, each with the white space around it: joined, they are the text."""
    return WORD.findall(text)
