"""Sentences about good and bad things, composed of states and templates: the structure of WinCLIP's
prompts (Jeong et al. 2023, section 4.1) in words of our own."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.text.templates import filled

# What is inspected stands at "{}".
GOOD = (
    "{}",
    "intact {}",
    "clean {}",
    "spotless {}",
    "{} free of defects",
    "{} with no damage",
    "{} with no flaw",
)
BAD = (
    "faulty {}",
    "{} with some damage",
    "{} with a visible defect",
    "{} with a flaw on it",
)
# A state stands at "{}", "a" or "the" before it.
TEMPLATES = (
    "a photo of {}",
    "a close photo of {}",
    "a photo of a part of {}",
    "a photo of {} in bright light",
    "a photo of {} in the dark",
    "a blurred photo of {}",
    "a photo of {} of low quality",
    "a photo of {} from far away",
    "a photo of large {}",
    "a photo of {} for quality control",
    "a photo of {} to look for anomalies",
)


def sentences(subject: str, states: Sequence[str]) -> list[str]:
    """Every state of the subject in every template, once with "a" or "an" and once with "the"."""
    phrases = [filled(state, subject) for state in states]
    return [
        filled(template, f"{article} {phrase}")
        for phrase in phrases
        for template in TEMPLATES
        for article in ("an" if phrase[0] in "aeiouAEIOU" else "a", "the")
    ]
