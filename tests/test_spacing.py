"""Texts that a tokenizer decoded, as people write them."""

import pytest

import patchword
from patchword.text.spacing import spaced

WRITTEN = {
    "someone ' s hat": "someone's hat",
    "don ' t": "don't",
    "a button - up t - shirt": "a button-up t-shirt",
    "clothing : pair of pants": "clothing: pair of pants",
    "a hat , red .": "a hat, red.",
    "3 . 5 cm at 10 : 30": "3.5 cm at 10:30",
    "a ( red ) hat": "a (red) hat",
    "a red hat": "a red hat",
    "- a hat": "- a hat",
    "": "",
}


@pytest.mark.parametrize("decoded", WRITTEN)
def test_spaces_stand_where_english_has_them(decoded: str) -> None:
    assert spaced(decoded) == WRITTEN[decoded]
    assert spaced(WRITTEN[decoded]) == WRITTEN[decoded]


@pytest.mark.parametrize("text", WRITTEN.values())
def test_the_ids_of_a_text_are_those_that_it_was_decoded_from(text: str) -> None:
    tokenizer = patchword.load("demo-blip").tokenizer
    assert tokenizer is not None
    (ids,) = tokenizer.rows([text])
    decoded = tokenizer.decode(ids)
    assert tokenizer.rows([decoded]) == tokenizer.rows([spaced(decoded)]) == [ids]
