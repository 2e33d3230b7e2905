"""Uncertainty of members beside a slow direct computation, its laws, and its files."""

import csv
import json
from copy import deepcopy
from itertools import pairwise
from math import log

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import LABELS
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_files import photograph, volume, write_picture
from tiny_models import tiny_plans
from torch import nn

from nnunet_mamba.cli import main
from nnunet_mamba.inference import (
    BatchedPredictor,
    CasePredictor,
    MembersPredictor,
    find_cases,
    members,
    uncertainty,
)
from nnunet_mamba.inference.batches import mirrorings
from nnunet_mamba.inference.predictor import torch_threads

CPU = torch.device("cpu")
PATCH = {2: (8, 12), 3: (6, 8, 8)}
GRIDS = {2: (3, 21, 9), 3: (9, 17, 7)}  # several tiles along an axis, and less than a patch along the last


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with torch_threads(1):
        yield


def make_plans(ndim=3, transpose=(0, 1, 2), reader="SimpleITKIO", spacing=1.0, **probabilities):
    plans = tiny_plans([spacing] * ndim, transpose, patch=PATCH[ndim], **probabilities)
    plans["configurations"]["c"]["normalization_schemes"] = ["NoNormalization"]
    return {**plans, "image_reader_writer": reader}


def describe(kind="labels", ending=".nii.gz"):
    return {"channel_names": {"0": "MRI"}, "numTraining": 6, "file_ending": ending, **LABELS[kind]}


def network(ndim, seed, n_heads=3, width=3):
    """A convolution whose mirrored copies differ, unless it is one voxel wide."""
    torch.manual_seed(seed)
    convolution = (nn.Conv2d, nn.Conv3d)[ndim - 2](1, n_heads, width, padding=width // 2)
    nn.init.normal_(convolution.weight)
    return convolution.eval()


def make_predictor(nets, plans=None, dataset=None, axes=None, kind=MembersPredictor, **options):
    """A predictor whose folds are `nets`."""
    manager = PlansManager(plans or make_plans())
    predictor = kind(device=CPU, allow_tqdm=False, perform_everything_on_device=False, **options)
    predictor.manual_initialization(
        deepcopy(nets[0]),  # folds are loaded into it
        manager,
        manager.get_configuration("c"),
        [net.state_dict() for net in nets],
        dataset or describe(),
        "nnUNetTrainer",
        axes,
    )
    return predictor


def image(shape, seed=7):
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def measure(predictor, data, kind="disagreement"):
    logits = predictor.predict_logits(data, "case")
    return predictor.take_members().measure(logits, kind)


def entropy(p):
    return -torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0.0)


def probabilities_of_all_members(predictor, nets, data, are_regions):
    """Yield every tile of the padded grid with every member's probabilities, (K, *patch) in float64."""
    patch = predictor.configuration_manager.patch_size
    for net in nets:
        for tile in predictor._internal_get_sliding_window_slicers(data.shape[1:]):
            for axes in mirrorings(range(len(patch))):
                logits = net(data[tile][None].flip(axes)).flip(axes)[0].double()
                yield tile, logits.sigmoid() if are_regions else logits.softmax(0)


def measure_directly(predictor, nets, data, are_regions):
    """Entropy, disagreement, and mean probabilities, from all members' logits."""
    patch = predictor.configuration_manager.patch_size
    grid = [max(*sizes) for sizes in zip(data.shape[1:], [1] * (3 - len(patch)) + list(patch), strict=True)]
    low = [(padded - n) // 2 for padded, n in zip(grid, data.shape[1:], strict=True)]
    inside = tuple(slice(first, first + n) for first, n in zip(low, data.shape[1:], strict=True))
    padded = torch.zeros(1, *grid)
    padded[(slice(None), *inside)] = data
    weight = predictor._tile_weight(CPU).double()
    total, expected = torch.zeros(2, *grid, dtype=torch.float64)

    def in_labels(p):
        return (entropy(p) + entropy(1 - p) if are_regions else entropy(p)).sum(0)

    mean = torch.zeros(3 - are_regions, *grid, dtype=torch.float64)
    for tile, p in probabilities_of_all_members(predictor, nets, padded, are_regions):
        total[tile[1:]] += weight
        expected[tile[1:]] += weight * in_labels(p)
        mean[tile] += weight * p
    mean /= total
    whole = in_labels(mean)
    return whole[inside], (whole - expected / total)[inside], mean[(slice(None), *inside)]


@pytest.mark.parametrize(
    ("ndim", "options"),
    [(2, {}), (3, {}), (2, {"tile_step_size": 0.1}), (2, {"use_gaussian": False})],  # 0.1: some tiles twice
    ids=str,
)
@pytest.mark.parametrize("labels", ["labels", "regions"])
def test_the_measures_are_those_of_all_members_logits(ndim, options, labels):
    are_regions, axes = labels == "regions", tuple(range(ndim))
    nets = [network(ndim, seed, 3 - are_regions) for seed in (1, 2)]
    data = image(GRIDS[ndim])
    common = {"plans": make_plans(ndim), "dataset": describe(labels), "axes": axes, **options}
    with torch.inference_mode():
        reference = make_predictor(nets, **common)
        entropies, disagreements, mean = measure_directly(reference, nets, data, are_regions)
    assert disagreements.max() > 0.1 and disagreements.min() >= -1e-12
    for batch_size in (1, 16):
        predictor = make_predictor(nets, **common, batch_size=batch_size)
        logits = predictor.predict_logits(data, "case")
        plain = make_predictor(nets, **common, batch_size=batch_size, kind=BatchedPredictor)
        assert torch.equal(logits, plain.predict_logits(data, "case"))
        found = predictor.take_members()
        for kind, expected in (("entropy", entropies), ("disagreement", disagreements)):
            measured, dice = found.measure(logits, kind)
            torch.testing.assert_close(measured.double(), expected, rtol=0, atol=2e-6)
            for k in range(len(logits)):
                chosen = logits[k] > 0 if are_regions else logits.argmax(0) == k
                soft = 2 * mean[k][chosen].sum() / (mean[k].sum() + chosen.sum())
                assert dice[k].item() == pytest.approx(soft.item(), abs=1e-5)


def constant(*logits):
    """A network that says the same of every voxel."""
    net = network(3, 0, len(logits), width=1)
    nn.init.zeros_(net.weight)
    net.bias = nn.Parameter(torch.tensor(logits))
    return net


def test_equal_members_do_not_disagree_however_unsure_they_are():
    net = network(3, 1, width=1)  # voxel by voxel: copies and tiles are equal, too
    predictor = make_predictor([net, net], axes=(0, 1, 2))
    assert measure(predictor, image(GRIDS[3]))[0].max() < 1e-6
    assert measure(predictor, image(GRIDS[3]), "entropy")[0].mean() > 0.1


@pytest.mark.parametrize("n", [2, 3])
def test_members_certain_of_different_labels_disagree_by_the_log_of_their_number(n):
    nets = [constant(*(50.0 * (k == label) for k in range(3))) for label in range(n)]
    for kind in ("disagreement", "entropy"):
        measured, dice = measure(make_predictor(nets, axes=(0,)), image(GRIDS[3]), kind)
        torch.testing.assert_close(measured, torch.full(GRIDS[3], log(n)))
    assert dice[0].item() == pytest.approx(2 / n / (1 / n + 1), abs=1e-5)  # ties: all voxels get label 0
    assert dice[1].item() == 0


def test_two_members_certain_of_opposite_regions_disagree_by_log_2_per_region():
    nets = [constant(50.0, -50.0), constant(-50.0, 50.0)]
    measured, _ = measure(make_predictor(nets, dataset=describe("regions")), image(GRIDS[3]))
    torch.testing.assert_close(measured, torch.full(GRIDS[3], 2 * log(2)))


def test_a_certain_ensemble_expects_a_dice_of_1():
    nets = [constant(0.0, 50.0, 0.0)] * 2
    measured, dice = measure(make_predictor(nets), image(GRIDS[3]), "entropy")
    assert measured.max() < 1e-6
    assert dice[1].item() == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_disagreement_is_at_most_the_entropy_which_is_at_most_the_log_of_the_number_of_labels(scale):
    predictor = make_predictor([network(3, seed) for seed in (1, 2, 3)], axes=(0, 1, 2))
    logits = predictor.predict_logits(scale * image(GRIDS[3]), "case")
    found = predictor.take_members()
    (disagreement, dice), (whole, _) = (found.measure(logits, kind) for kind in ("disagreement", "entropy"))
    for smaller, larger in pairwise((torch.zeros(()), disagreement, whole, torch.tensor(log(3)))):
        assert (smaller <= larger + 1e-5).all()
    assert (dice >= 0).all() and (dice <= 1 + 1e-6).all()


def test_measuring_in_slabs_changes_nothing(monkeypatch):
    predictor = make_predictor([network(3, seed) for seed in (1, 2)])
    logits = predictor.predict_logits(image(GRIDS[3]), "case")
    found = predictor.take_members()
    whole = found.measure(logits, "disagreement")
    monkeypatch.setattr(members, "SLAB", 2 * logits[:, 0].numel())
    parts = found.measure(logits, "disagreement")
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


def test_tiles_count_once_when_nnunet_begins_anew():
    """After any RuntimeError it tries again with its results on the CPU."""
    nets = [network(3, seed) for seed in (1, 2)]
    expected, _ = measure(make_predictor(nets, batch_size=1), image(GRIDS[3]))
    predictor = make_predictor(nets, batch_size=1)
    predictor.perform_everything_on_device = True
    calls = []

    def fail_at_the_third(*_):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("out of memory")

    predictor.network.register_forward_pre_hook(fail_at_the_third)
    found, _ = measure(predictor, image(GRIDS[3]))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("n_folds", "axes", "options", "n_members"),
    [(1, None, {}, 1), (1, (0, 1), {"use_mirroring": False}, 1), (1, (0,), {}, 2), (3, (0, 1), {}, 12)],
)
def test_a_single_member_cannot_disagree(n_folds, axes, options, n_members):
    nets = [network(3, seed) for seed in range(n_folds)]
    predictor = make_predictor(nets, axes=axes, **options)
    assert predictor.n_members == n_members
    if n_members > 1:
        predictor.check_members()
        return
    with pytest.raises(ValueError, match="disagreement needs two members"):
        predictor.check_members()
    predictor.uncertainty = "entropy"
    predictor.check_members()


# files


def by_value(n_heads=3):
    """A network whose logits are the voxel's value v, -v and v / 2; its entropy tells the voxel."""
    net = network(3, 0, n_heads, width=1)
    net.weight.data = torch.tensor([1.0, -1.0, 0.5])[:n_heads].view(net.weight[:n_heads].shape)
    nn.init.zeros_(net.bias)
    return net


def entropy_by_value(values):
    logits = torch.from_numpy(values)[None].double() * torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1, 1)
    return entropy(logits.softmax(0)).sum(0).numpy()


def noise(shape, margin=2):
    values = np.zeros(shape, np.float32)
    inside = tuple(slice(margin, -margin) for _ in shape)
    values[inside] = np.random.default_rng(0).normal(size=values[inside].shape)
    return values


def in_box(shape, margin=2):
    box = np.zeros(shape, bool)
    box[tuple(slice(margin, -margin) for _ in shape)] = True
    return box


def predict(predictor, tmp_path, ending=".nii.gz", **options):
    cases = find_cases(tmp_path / "images", tmp_path / "out", ending)
    return CasePredictor(predictor, **options).predict(cases)


def read_rows(tmp_path, kind="entropy"):
    with (tmp_path / "out" / kind / "uncertainty.csv").open() as stream:
        return list(csv.DictReader(stream))


def names_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def write_image(tmp_path, values, name="a", **grid):
    (tmp_path / "images").mkdir(exist_ok=True)
    sitk.WriteImage(volume(values, **grid), str(tmp_path / "images" / f"{name}_0000.nii.gz"))


READERS = ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"]
TURNED = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # axes of the file that are no reader's own


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_the_map_lies_on_the_grid_of_the_image(tmp_path, reader, transpose):
    values = noise((12, 14, 10))
    write_image(tmp_path, values, spacing=(1.0, 1.0, 1.0), direction=TURNED)
    plans = make_plans(transpose=transpose, reader=reader)
    (outcome,) = predict(make_predictor([by_value()] * 2, plans, uncertainty="entropy"), tmp_path)
    assert outcome.error is None
    source, found, labels = (
        sitk.ReadImage(str(tmp_path / file))
        for file in ("images/a_0000.nii.gz", "out/entropy/a.nii.gz", "out/a.nii.gz")
    )
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        expected = getattr(source, geometry)()
        assert getattr(labels, geometry)() == pytest.approx(expected, abs=1e-5)
        assert getattr(found, geometry)() == pytest.approx(expected, abs=1e-5)
    assert found.GetPixelID() == sitk.sitkFloat32
    expected = np.where(in_box(values.shape), entropy_by_value(values), 0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), expected, atol=1e-5)


def test_pictures_have_a_map_in_two_dimensions(tmp_path):
    write_picture(tmp_path / "images" / "a_0000.png", photograph(1, (20, 24)) % 3 + 1)
    plans = make_plans(2, reader="NaturalImage2DIO")
    nets = [network(2, seed) for seed in (1, 2)]
    predictor = make_predictor(nets, plans, describe(ending=".png"))
    (outcome,) = predict(predictor, tmp_path, ".png")
    assert outcome.error is None
    found = sitk.ReadImage(str(tmp_path / "out" / "disagreement" / "a.nii.gz"))
    assert found.GetSize() == (24, 20)


@pytest.mark.parametrize("spacing", [1.0, 0.7])
@pytest.mark.parametrize("order", [1, 3], ids=["one pass", "nnU-Net's export"])
@pytest.mark.parametrize("labels", ["labels", "regions"])
def test_the_table_tells_what_the_files_hold(tmp_path, labels, spacing, order):
    for seed, case in enumerate("ba"):
        write_image(tmp_path, noise((10, 9 + seed, 11), 1), case, spacing=(1.0, 1.0, 1.0))
    heads = [("background", "0", [0]), ("body", "1", [1]), ("kernel", "2", [2])]
    if labels == "regions":
        heads = [("whole", "1+2", [1, 2]), ("kernel", "2", [2])]
    plans = make_plans(spacing=spacing, order=order)
    nets = [network(3, seed, len(heads)) for seed in (1, 2)]
    run = CasePredictor(make_predictor(nets, plans, describe(labels), axes=(0,)), overlap=True)
    assert bool(run.exporter.obstacle) == (order == 3)
    outcomes = run.predict(find_cases(tmp_path / "images", tmp_path / "out", ".nii.gz"))
    assert not any(outcome.error for outcome in outcomes)
    rows = read_rows(tmp_path, "disagreement")
    assert [row["case"] for row in rows] == ["a"] * len(heads) + ["b"] * len(heads)
    for row, (name, number, values) in zip(rows, heads * 2, strict=True):
        segmentation, disagreement = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / folder / f"{row['case']}.nii.gz")))
            for folder in (".", "disagreement")
        )
        chosen = np.isin(segmentation, values)
        assert (row["name"], row["label"], int(row["voxels"])) == (name, number, chosen.sum())
        assert float(row["mean"]) == pytest.approx(disagreement[chosen].mean(), rel=1e-4)
        assert 0 <= float(row["expected_dice"]) <= 1
    assert max(float(row["mean"]) for row in rows) > 0.02


def test_a_label_without_voxels_has_no_mean(tmp_path):
    write_image(tmp_path, noise((9, 9, 9)))
    predict(make_predictor([constant(0.0, 50.0, 0.0)] * 2), tmp_path)
    background, body, kernel = read_rows(tmp_path, "disagreement")
    assert (kernel["voxels"], kernel["mean"]) == ("0", "")
    assert (body["voxels"], body["expected_dice"]) == (str(5**3), "1")
    assert float(body["mean"]) < 1e-6
    assert background["voxels"] == str(9**3 - 5**3)


@pytest.mark.parametrize("broken", ["the map", "the label map", "the table"])
def test_a_case_that_fails_leaves_nothing_and_others_stay(tmp_path, monkeypatch, broken):
    for case in "ab":
        write_image(tmp_path, noise((9, 9, 9)), case)
    nets = [network(3, seed) for seed in (1, 2)]
    predict(make_predictor(nets), tmp_path)
    complete = names_in(tmp_path / "out")
    assert complete == [
        "a.nii.gz",
        "b.nii.gz",
        *(f"disagreement/{name}" for name in ("a.nii.gz", "b.nii.gz", "uncertainty.csv")),
    ]
    module, name = {
        "the map": (uncertainty, "write_map"),
        "the table": (uncertainty, "sum_by_label"),
        "the label map": (uncertainty.Exporter, "write"),
    }[broken]
    works = getattr(module, name)
    calls = []

    def fail_at_first(*args):
        calls.append(0)
        if len(calls) == 1:
            raise OSError("No space left on device")
        return works(*args)

    monkeypatch.setattr(module, name, fail_at_first)
    a, b = predict(make_predictor(nets), tmp_path)
    assert "No space left" in str(a.error) and b.error is None
    assert names_in(tmp_path / "out") == [name for name in complete if "a.nii" not in name]
    assert {row["case"] for row in read_rows(tmp_path, "disagreement")} == {"b"}


def test_rows_of_a_case_are_replaced_and_others_kept(tmp_path):
    def row(case, mean):
        return {**dict.fromkeys(uncertainty.COLUMNS, ""), "case": case, "mean": mean}

    table = tmp_path / "uncertainty.csv"
    uncertainty.replace_rows(table, "nothing", [])
    assert not table.exists()
    for case, mean in (("b, with a comma", "1"), ("a", "2"), ("b, with a comma", "3")):
        uncertainty.replace_rows(table, case, [row(case, mean)])
    uncertainty.replace_rows(table, "c", [])
    with table.open(newline="") as stream:
        found = [(row["case"], row["mean"]) for row in csv.DictReader(stream)]
    assert found == [("a", "2"), ("b, with a comma", "3")]
    assert [file.name for file in tmp_path.iterdir()] == ["uncertainty.csv"]


# the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder as nnU-Net's stock trainer leaves it, of two folds."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder, plans = tmp_path_factory.mktemp("model") / "nnUNetTrainer__nnUNetPlans__c", make_plans()
    manager = PlansManager(plans)
    for fold in (0, 1):
        torch.manual_seed(fold)
        net = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("c"), 1, 3, False)
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": net.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "c", "plans": plans},
            "inference_allowed_mirroring_axes": (0,),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(describe()))
    return folder


def test_a_case_is_complete_only_with_its_map(tmp_path, nnunet_folders, model, capsys):
    for case in "ab":
        write_image(tmp_path, noise((9, 9, 9)), case)
    out = tmp_path / "out"
    command = ["predict", "-i", str(tmp_path / "images"), "-o", str(out), "-m", str(model), "-f", "0", "1"]
    command += ["-device", "cpu", "--disable_progress_bar", "--continue_prediction"]
    assert main(command) == 0
    assert not (out / "disagreement").exists()
    plain = {case: (out / f"{case}.nii.gz").read_bytes() for case in "ab"}
    for before, done in ((None, 2), (None, 0), ("b", 1)):
        if before:
            (out / "disagreement" / f"{before}.nii.gz").unlink()
        capsys.readouterr()
        assert main([*command, "--uncertainty"]) == 0
        assert f"{2 - done} of 2 cases are finished" in capsys.readouterr().out
        assert names_in(out / "disagreement") == ["a.nii.gz", "b.nii.gz", "uncertainty.csv"]
    assert plain == {case: (out / f"{case}.nii.gz").read_bytes() for case in "ab"}
    assert main([*command, "--uncertainty", "entropy"]) == 0
    assert names_in(out / "entropy") == ["a.nii.gz", "b.nii.gz", "uncertainty.csv"]


def test_one_fold_without_mirrored_copies_is_refused_before_any_work(tmp_path, nnunet_folders, model, capsys):
    write_image(tmp_path, noise((9, 9, 9)))
    out = tmp_path / "out"
    command = ["predict", "-i", str(tmp_path / "images"), "-o", str(out), "-m", str(model), "-f", "0"]
    command += ["-device", "cpu", "--disable_progress_bar", "--disable_tta", "--uncertainty"]
    assert main(command) == 2
    assert "disagreement needs two members" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "entropy"]) == 0
    assert (out / "entropy" / "a.nii.gz").is_file()
