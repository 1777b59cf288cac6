"""The page's Explore tab: the clusters and near-duplicates that the index finds in Python."""

from pathlib import Path

from driving import Visit, errors, submit

import patchword


def test_clusters(visit: Visit, index: Path, demo: patchword.Model) -> None:
    page = visit("explore")
    page.fill("#panel-explore [name=clusters]", "4")
    submit(page, "explore")
    assert errors(page, "explore") == []
    found = patchword.open_index(index).explore(4, examples=48, model=demo)
    headings = page.locator("#panel-explore .group h2").all_text_contents()
    assert headings == [f"{cluster.name} ({cluster.count})" for cluster in found]
    first = page.locator("#panel-explore .group").first.locator(".hit span:first-of-type")
    assert first.all_text_contents() == [Path(hit.path).name for hit in found[0].examples[:12]]
    page.locator("#panel-explore .hit").first.click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    assert found[0].examples[0].path in page.inner_text("#hit .facts")
    assert "256 × 256" in page.inner_text("#hit .facts")


def test_duplicates(visit: Visit, index: Path) -> None:
    page = visit("explore")
    page.click("#panel-explore .duplicates")
    page.wait_for_selector("#panel-explore .group")
    copies = [
        set(group.locator(".hit span:first-of-type").all_text_contents())
        for group in page.locator("#panel-explore .group").all()
    ]
    assert {"red-ring-again.jpg", "red-ring.jpg"} in copies
    assert {"purple-star-again.jpg", "purple-star.jpg"} in copies
    assert len(copies) == 3
    page.reload()
    page.fill("#panel-explore [name=threshold]", "0.9")
    page.click("#panel-explore .alike")
    page.wait_for_selector("#panel-explore .group")
    groups = patchword.open_index(index).duplicates(0.9)
    shown = [
        group.locator(".hit span:first-of-type").all_text_contents()
        for group in page.locator("#panel-explore .group").all()
    ]
    assert shown == [
        [Path(photo.path).name for photo in (group.keep, *group.others)][:12] for group in groups
    ]
    assert any("red-ring-again.jpg" in names for names in shown)
