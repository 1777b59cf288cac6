"""Dense features equal those of the original code of each method."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden import arrays, image, model, options
from torch import Tensor
from torch.testing import assert_close

from patchword.bundle import Bundle
from patchword.models.edits import Calibration, DenseEdit, Earlier, Normalised, Refined, Semantic
from patchword.models.scclip import outlier_scores, outliers, repair
from patchword.where.dense import EDITS, dense
from patchword.where.maskclip import by_keys
from patchword.where.pamr import pamr
from patchword.where.resclip import blurred, label_map, majority, probabilities, same_label
from patchword.where.surgery import class_weights, without_common

PLAIN = DenseEdit(positions="offset")
ALONE = {"residual": False, "mlp": False}
BOTH = {"attention": ("qq", "kk"), "row_sum": 2.0}
NACLIP, GEM, SC, RES = (EDITS[name] for name in ("naclip", "gem", "scclip", "resclip"))
VARIANTS = {
    "maskclip": {"maskclip_clip": EDITS["maskclip"]},
    "sclip": {"sclip": EDITS["sclip"], "plain": PLAIN},
    "clearclip": {
        "clearclip_y": EDITS["clearclip"],
        "clearclip_resmlp": replace(PLAIN, attention=("qq",)),
        "vanilla_y": replace(PLAIN, **ALONE),
        "vanilla_resmlp": PLAIN,
        "maskclip_y": replace(EDITS["maskclip-paper"], positions="offset"),
        "maskclip_resmlp": replace(EDITS["maskclip"], positions="offset"),
        "sclip_y": replace(PLAIN, **BOTH, **ALONE),
        "sclip_resmlp": EDITS["sclip"],
        "clearclip_y_last3": replace(EDITS["clearclip"], blocks=3),
    },
    "naclip": {
        "naclip": NACLIP,
        "naclip_res": replace(NACLIP, residual=True, mlp=True),
        "naclip_s2": replace(NACLIP, gaussian=2.0),
        "kk": replace(NACLIP, gaussian=0.0),
        "nonly": EDITS["nonly"],
        "vanilla": PLAIN,
    },
    "gem": {
        "gem": GEM,
        "gem_it2_d7": replace(GEM, normalised=Normalised(2)),
        "gem_it1_d5_t8": replace(GEM, blocks=4, normalised=Normalised(1, 8.0)),
        # Each block's output is its attention alone, so that the last one's remains.
        "gem_nores": replace(GEM, residual=False, blocks=1),
    },
    "surgery": {"surgery": EDITS["surgery"]},
    "scclip": {
        "scclip": SC,
        "scclip_fixgrid": SC,
        "scclip_opt": replace(SC, calibration=Calibration(6, 2, 2, 8, 0.0)),
    },
    "resclip": {
        "resclip_full": RES,
        "resclip_full_thd": replace(
            RES, earlier=Earlier(2.0, 0.3), semantic=Semantic(1.8, 0.7, 0.6)
        ),
        "resclip_no_path": replace(
            RES, earlier=Earlier(2.0, 0.3), semantic=Semantic(2.1, 0.7, 0.25, False)
        ),
        "resclip_rcs_only": replace(RES, earlier=Earlier(2.0, 0.4), semantic=None),
        "resclip_sfr_only": replace(RES, earlier=None, semantic=Semantic(2.1, 0.6, 0.25)),
        "resclip_neither": replace(RES, earlier=None, semantic=None),
    },
}
CASES = [(method, variant) for method, variants in VARIANTS.items() for variant in variants]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return model("clip_v1", tmp_path_factory.mktemp("golden"))


def cosines(bundle: Bundle, pixels: Tensor, edit: DenseEdit) -> Tensor:
    """(4, h, w)."""
    texts = arrays("inputs")["text"]
    found = dense(bundle, pixels, edit, texts)[0] @ texts.mT
    grid = bundle.image_tower.grid((pixels.shape[-2], pixels.shape[-1]))
    return torch.unflatten(found.mT, 1, grid)


def compared(bundle: Bundle, pixels: Tensor, plan: Refined) -> Tensor:
    """(4, h, w)."""
    texts = arrays("inputs")["text"]
    found = by_keys(bundle, pixels, EDITS["maskclip-keys"], plan, texts)[0]
    grid = bundle.image_tower.grid((pixels.shape[-2], pixels.shape[-1]))
    return torch.unflatten(found.mT, 1, grid)


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_cosines_of_every_variant(clip: Bundle, method: str, variant: str) -> None:
    expected = {
        key.split(".")[1]: value
        for key, value in arrays(f"dense/{method}").items()
        if key.split(".")[2:] == [variant, "cos"]
    }
    assert expected
    for name, values in expected.items():
        assert_close(cosines(clip, image(name), VARIANTS[method][variant]), values)


@torch.no_grad()
def test_what_texts_have_in_common_is_subtracted(clip: Bundle) -> None:
    """CLIP Surgery's feature step: its weights, its maps, and the points that its code takes from
    them at 100 x 140 pixels."""
    golden, texts = arrays("dense/surgery"), arrays("inputs")["text"]
    empty = arrays("inputs")["text_empty"].flatten()
    assert {f"v1.img1.surgery.{part}" for part in ("w", "points0", "points3")} <= set(golden)
    for name in ("img1", "img2"):
        known = f"v1.{name}.surgery"
        patches = dense(clip, image(name), EDITS["surgery"])
        whole = F.normalize(clip.network.encode_image(image(name)), dim=-1)
        if f"{known}.w" in golden:  # of the first image alone
            assert_close(class_weights(whole, texts)[0], golden[f"{known}.w"])
        found = without_common(patches, whole, texts, empty)[0]
        assert_close(found, golden[f"{known}.sim"][1:], rtol=1e-4, atol=2e-5)
        one = without_common(patches, whole, texts[:1], empty)[0]
        assert_close(one, golden[f"{known}.sim_single"][1:], rtol=1e-4, atol=2e-5)
        for number, column in enumerate(found.T):
            if f"{known}.points{number}" not in golden:
                continue
            small = F.interpolate(column.reshape(1, 1, 7, 7), (3, 3), mode="bilinear").flatten()
            unit = (small - small.min()) / (small.max() - small.min())
            order = unit.argsort().tolist()
            count = min(int((unit >= 0.8).sum()), 9 // 2)
            points = [
                [int(min((i % 3 + 0.5) * 140 / 3, 139)), int(min((i // 3 + 0.5) * 100 / 3, 99))]
                for i in (*order[-count:], *order[:count])
            ]
            assert points == golden[f"{known}.points{number}"].tolist()


def test_the_unchanged_network(clip: Bundle) -> None:
    golden = arrays("dense/openai_clip")
    for name in ("img1", "img2"):
        assert_close(
            clip.network.encode_image(image(name))[0].detach(),
            golden[f"v1.{name}.image_features"],
            rtol=1e-4,  # after 12 blocks of another order of summation
            atol=1e-5,
        )


@torch.no_grad()
def test_a_resnet(tmp_path: Path) -> None:
    bundle, golden = model("clip_rn", tmp_path), arrays("dense/resnet")
    for name in ("rn1", "rn2", "rnw1"):
        found = cosines(bundle, image(name), EDITS["maskclip"])
        assert_close(found, golden[f"{name}.maskclip_rn.cos"])
    found = cosines(bundle, image("rn1"), EDITS["attnpool"])
    assert_close(found, golden["rn1.maskclip_rn_attnpool.cos"])
    for least in (0.0, 0.9):
        found = compared(bundle, image("rn1"), Refined(least, 0.6))
        assert_close(found, golden[f"rn1.maskclip_rn.ks0.6_pd{least}"])


@torch.no_grad()
def test_texts_that_are_compared(clip: Bundle) -> None:
    """MaskCLIP's key smoothing (ks) and prompt denoising (pd)."""
    golden = arrays("dense/maskclip")
    for name in ("img1", "img2"):
        key = f"v1.{name}.maskclip_clip"
        keys = clip.image_tower.dense_keys(image(name), EDITS["maskclip-keys"])[1]
        assert_close(keys[0], golden[f"{key}.keys"], rtol=1e-4, atol=1e-5)
        for unsure, least in ((0.0, 0.9), (0.75, 0.0), (0.75, 0.9)):
            found = compared(clip, image(name), Refined(least, unsure))
            expected = golden[f"{key}.refine_ks{unsure}_pd{least}"]
            assert_close(found, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_a_siglip(tmp_path: Path) -> None:
    bundle, golden = model("siglip_a", tmp_path), arrays("dense/siglip")
    texts = F.normalize(golden["siglip_a.text_features"], dim=-1)
    for name in ("sig1", "sig2"):
        features = dense(bundle, image(name), EDITS["cosine"])[0]
        expected = F.normalize(golden[f"siglip_a.{name}.dense"], dim=-1)
        assert_close(features, expected)
        maps = torch.unflatten((features @ texts.mT).mT, 1, (6, 6))
        assert_close(maps, golden[f"siglip_a.{name}.cos"])
        scores = torch.sigmoid(bundle.scale * maps + bundle.bias)
        assert_close(scores, golden[f"siglip_a.{name}.prob"])


def test_refinement_by_pixels() -> None:
    golden, stated = arrays("dense/naclip"), options("naclip")
    for case in ("pamr_a", "pamr_b", "pamr_c"):
        plan = stated[f"{case}.out"]
        photo, maps = golden[f"{case}.image"][None], golden[f"{case}.in"][None]
        found = pamr(photo, maps, plan["num_iter"], plan["dilations"])[0]
        assert_close(found, golden[f"{case}.out"])


def test_parts_of_self_calibration() -> None:
    golden = arrays("dense/scclip")
    points = golden["lof_part40.x"]
    for count, share in ((30, 0.05), (10, 0.1)):
        key = f"lof_part40_k{count}"
        assert_close(outlier_scores(points, count), golden[f"{key}.score"])
        found = torch.nonzero(outliers(points, count, share)).flatten()
        assert found.tolist() == golden[f"{key}.outliers"].tolist()
    x = golden["repair.in"]  # (C, h, w)
    wrong = torch.zeros(x.shape[1:], dtype=torch.bool)
    for row, column in options("scclip")["repair.in"]["outliers"]:
        wrong[row, column] = True
    found = repair(x.flatten(1).mT, wrong.flatten(), x.shape[1:]).mT.unflatten(1, x.shape[1:])
    assert_close(found, golden["repair.out"])


@torch.no_grad()
def test_parts_of_the_second_pass(clip: Bundle) -> None:
    golden = arrays("dense/resclip")
    for variant in ("resclip_full", "resclip_full_thd", "resclip_no_path", "resclip_sfr_only"):
        edit = VARIANTS["resclip"][variant]
        for name in ("img1", "img2"):
            first = cosines(clip, image(name), replace(edit, semantic=None))
            labels = majority(label_map(image(name)[0], first, edit.semantic), (7, 7))
            key = f"v1.{name}.{variant}"
            assert torch.equal(labels, golden[f"{key}.labels"].long())
            if variant != "resclip_no_path" and f"{key}.sfr" in golden:
                assert_close(blurred(same_label(labels, edit.semantic.paths)), golden[f"{key}.sfr"])
            if f"{key}.first_prob" in golden:
                found = probabilities(image(name)[0], first, 40.0)[:, ::4, ::4]
                assert_close(found, golden[f"{key}.first_prob"], rtol=1e-4, atol=1e-5)
