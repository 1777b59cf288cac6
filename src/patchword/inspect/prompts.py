"""Sentences about good and bad states of a subject: every state in every template, as WinCLIP
composes its prompts (Jeong et al. 2023, section 4.1), with other words."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.text.templates import filled

# The subject stands at "{}".
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
# The state of the subject stands at "{}", after "a" or "the".
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
    out = []
    for state in states:
        phrase = filled(state, subject)
        indefinite = "an" if phrase[0] in "aeiouAEIOU" else "a"
        for template in TEMPLATES:
            out.append(filled(template, f"{indefinite} {phrase}"))
            out.append(filled(template, f"the {phrase}"))
    return out
