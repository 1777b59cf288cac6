"""Texts with common beginnings: the tree's numbers are those of each text computed alone."""

import pytest
import torch
from torch import Tensor

from patchword.config import TextConfig
from patchword.models import text as text_tower
from patchword.models.text import TextTransformer
from patchword.nn.prefix_tree import PrefixTree, batches

END = 99
CONFIG = TextConfig(
    vocab_size=100, context=12, width=32, depth=3, heads=4, mlp_width=64, pool="end", end_token=END
)


def texts(*rows: list[int]) -> Tensor:
    """Ids, an end token after each row, padded with zeros."""
    longest = max(map(len, rows)) + 1
    return torch.tensor([[*row, END] + [0] * (longest - len(row) - 1) for row in rows])


ROWS = texts(
    [1, 5, 7, 9],
    [1, 5, 7, 9],  # the same text again
    [1, 5, 7],  # ends where the other goes on
    [1, 5, 8, 9, 3],
    [2],
    [1, 5, 7, 9],  # not beside its like: computed again
)


@pytest.fixture(scope="module")
def tower() -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(CONFIG, 16).eval()


def alone(tower: TextTransformer, ids: Tensor) -> Tensor:
    """Each row by itself and up to its end token, in the plain way: with gradients recorded."""
    ends = (ids == END).int().argmax(dim=1).tolist()
    return torch.cat([tower(row[None, : end + 1]) for row, end in zip(ids, ends, strict=True)])


def test_nodes_are_the_different_prefixes() -> None:
    ends = (ROWS == END).int().argmax(dim=1)
    tree = PrefixTree(ROWS, ends)
    # 1 5 7 9 END, of the third END, 8 9 3 END, 2 END, and the last one again
    assert len(tree) == 5 + 1 + 4 + 2 + 5
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 3, 2, 3, 4, 5, 0, 1, 0, 1, 2, 3, 4]
    assert tree.node_of_token[1].tolist() == tree.node_of_token[0].tolist()
    assert tree.node_of_token[3, :2].tolist() == [0, 1]
    assert tree.end_nodes.tolist() == [[4, 4, 5, 9, 11, 16]]


@pytest.mark.parametrize("most", [1, 6, 1000])
def test_equal_to_each_text_alone(
    tower: TextTransformer, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tower, "NODES_PER_THREAD", most)
    with torch.inference_mode():
        together = tower(ROWS)
    torch.testing.assert_close(together, alone(tower, ROWS), rtol=1e-5, atol=1e-6)


def test_random_trees(tower: TextTransformer) -> None:
    """Few tokens, so that many prefixes are shared, sorted and not."""
    torch.manual_seed(1)
    for length in range(1, 12):
        ids = torch.randint(1, 4, (40, length + 1))
        ids[torch.arange(40), torch.randint(0, length + 1, (40,))] = END
        ids[ids[:, -1] != END, -1] = torch.where((ids == END).any(1), 2, END)[ids[:, -1] != END]
        for rows in (ids, torch.tensor(sorted(ids.tolist()))):
            with torch.inference_mode():
                together = tower(rows)
            torch.testing.assert_close(together, alone(tower, rows), rtol=1e-5, atol=1e-6)


def test_a_wrong_tree_would_show(tower: TextTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the second row's own token for the first row's."""
    right = PrefixTree.__init__

    def wrong(self: PrefixTree, ids: Tensor, ends: Tensor) -> None:
        right(self, ids, ends)
        self.node_of_token[3, 2] = self.node_of_token[0, 2]

    monkeypatch.setattr(PrefixTree, "__init__", wrong)
    with torch.inference_mode():
        together = tower(ROWS)
    assert (together - alone(tower, ROWS)).abs().max() > 1e-3


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_one_text_is_computed_up_to_its_end(tower: TextTransformer, row: int) -> None:
    lengths = []
    hook = tower.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape))
    ids = torch.nn.functional.pad(ROWS[row : row + 1], (0, 6))
    with torch.inference_mode():
        features = tower(ids)
    hook.remove()
    end = int((ids[0] == END).nonzero()[0])
    assert lengths == [(1, end + 1, CONFIG.width)]
    torch.testing.assert_close(features, alone(tower, ids), rtol=1e-5, atol=1e-6)


def test_batches_are_bounded_and_whole() -> None:
    ends = (ROWS == END).int().argmax(dim=1)
    for most in (1, 5, 6, 11, 100):
        parts = batches(ROWS, ends, most)
        assert torch.equal(torch.cat([ids for ids, _ in parts]), ROWS)
        assert torch.equal(torch.cat([each for _, each in parts]), ends)
        for ids, each in parts:  # one that starts anew computes its prefix again
            assert len(ids) == 1 or len(PrefixTree(ids, each)) <= most + ROWS.shape[1]
