"""From a checkpoint and an image to pictures and numbers; where a voxel is, spreads and fields by hand."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from nnunet_mamba import trainers
from nnunet_mamba.analysis.activations import BINS, measure_spread, measure_spreads, record_scan_inputs
from nnunet_mamba.analysis.attention import compute_attention, compute_receptive_field, upsample_to_patch
from nnunet_mamba.analysis.load import crop_with_zeros, first_voxel, load_trained, read_patch
from nnunet_mamba.cli import main
from nnunet_mamba.plans.architecture import replace_network

SHAPE = (20, 24, 18)  # z, y, x


@pytest.fixture
def image(tmp_path):
    """A bright ball in noise; isotropic, so that nothing is resampled."""
    z, y, x = np.indices(SHAPE)
    ball = ((z - 9) ** 2 + (y - 14) ** 2 + (x - 8) ** 2 < 16).astype(np.float32)
    noise = np.random.default_rng(0).normal(5, 0.2, SHAPE).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(ball + noise), str(tmp_path / "case_0000.nii.gz"))
    return tmp_path / "case_0000.nii.gz"


RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


def with_preprocessing(plans: dict) -> dict:
    """Plans that an image can be prepared by, as nnU-Net's planner completes them."""
    for configuration in plans["configurations"].values():
        for kind in ("data", "seg"):
            kwargs = RESAMPLING if kind == "data" else {**RESAMPLING, "is_seg": True, "order": 1}
            configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
            configuration[f"resampling_fn_{kind}_kwargs"] = kwargs
    return {**plans, "foreground_intensity_properties_per_channel": {"0": {}}}


@pytest.fixture
def make_checkpoint(make_trainer, make_plans, tmp_path):
    """A function: what nnU-Net saves of a trainer that has not trained."""

    def make(name: str = "nnUNetTrainerMMUNet", configuration: str = "3d_fullres", plans: dict | None = None):
        torch.manual_seed(0)
        plans = with_preprocessing(plans or make_plans())
        trainer = make_trainer(getattr(trainers, name), plans, configuration)
        trainer.initialize()
        file = tmp_path / f"{name}_{configuration}.pth"
        trainer.save_checkpoint(str(file))
        return file

    return make


def test_a_checkpoint_and_an_image_give_pictures_and_numbers(make_checkpoint, image, tmp_path, capsys):
    out = tmp_path / "out"
    voxels = ("--voxel", "9", "14", "8", "--voxel", "10", "12", "9")
    assert main(["inspect", str(make_checkpoint()), str(image), *voxels, "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {
        "scan_0.png", "scan_1.png", "features.png", "field_0.png", "field_1.png", "inspect.npz",
    }  # fmt: skip
    numbers = np.load(out / "inspect.npz")
    patch, place = numbers["patch"], tuple(numbers["places"][0])
    assert patch.shape == (1, 16, 16, 16)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    scores = (values - values.mean()) / values.std()
    assert patch[(0, *place)] == pytest.approx(scores[9, 14, 8], abs=1e-4)
    maps = {name: numbers[name] for name in numbers.files if name.startswith("scan/0/")}
    assert {name.rsplit("/", 1)[1] for name in maps} == {"DHW", "-DHW"}
    for name, row in maps.items():
        own = tuple(at * n // 16 for at, n in zip(place, row.shape, strict=True))
        token = np.ravel_multi_index(own, row.shape)
        hidden = row.flatten()[token + 1 :] if name.endswith("/DHW") else row.flatten()[:token]
        assert not hidden.any() and row[own] > 0
    assert "95% within" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "configuration"),
    [
        ("nnUNetTrainerUMambaBot", "3d_fullres"),
        ("nnUNetTrainerMambaMulti", "3d_fullres"),
        ("nnUNetTrainerMMUNet_B6", "3d_fullres"),
        ("nnUNetTrainerMMUNet", "2d"),
        ("nnUNetTrainerVMUNet", "2d"),
    ],
)
def test_scans_of_every_kind_of_network(make_checkpoint, make_plans, image, name, configuration):
    plans = make_plans()
    if name == "nnUNetTrainerVMUNet":
        plans["configurations"]["2d"]["patch_size"] = [32, 32]
    trained = load_trained(make_checkpoint(name, configuration, plans))
    patch = read_patch(trained, [image])
    place = tuple(n // 2 for n in patch.grid)
    for seen in record_scan_inputs(trained.network, patch.data)[:3]:
        found = compute_attention(seen, place)
        assert len(found.maps) == len(seen.block.directions)
        assert upsample_to_patch(found.total, found.stride, patch.grid).shape == patch.grid
        assert found.total[found.place] > 0


def test_stages_are_those_of_the_plans(make_checkpoint, make_plans, image):
    trained = load_trained(make_checkpoint(plans=make_plans(n_stages=3)))
    seen = record_scan_inputs(trained.network, read_patch(trained, [image]).data)
    assert [(one.stage, one.grid) for one in seen] == [(1, (8, 8, 8)), (2, (4, 4, 4))]


def test_what_a_network_pads_is_no_part_of_the_maps(make_checkpoint, image):
    """17 voxels become 20, which are 10 and 5 tokens."""
    trained = load_trained(make_checkpoint())
    patch = read_patch(trained, [image], size=(17, 16, 16))
    seen = record_scan_inputs(trained.network, patch.data)
    assert [(one.stage, one.stride, one.grid[0]) for one in seen] == [(1, (2, 2, 2), 10), (2, (4, 4, 4), 5)]
    found = compute_attention(seen[1], (16, 0, 0))
    assert found.place == (4, 0, 0)
    assert upsample_to_patch(found.total, found.stride, patch.grid).shape == (17, 16, 16)


def test_channel_tokens_are_left_out(make_checkpoint, make_plans, image):
    """U-Mamba Enc's deepest stage has no more voxels than channels: it scans channels."""
    plans = make_plans(n_stages=3, patch=(8, 8, 8), features=8)
    trained = load_trained(make_checkpoint("nnUNetTrainerUMambaEnc", plans=plans))
    seen = record_scan_inputs(trained.network, read_patch(trained, [image]).data)
    assert all(len(one.grid) == 3 for one in seen)
    assert 2 not in {one.stage for one in seen}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--voxel", "99", "0", "0"), "lies outside"),
        (("--voxel", "0", "0", "0", "--centre", "19", "23", "17"), "holds z 4 to 19, y 8 to 23, x 2 to 17"),
        (("--stage", "0"), "No scan is at stage 0; there are scans at 1, 2"),
        (("--patch", "16", "16"), "has 3 axes"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    make_checkpoint, image, tmp_path, capsys, arguments, reason
):
    command = ["inspect", str(make_checkpoint()), str(image), "--out", str(tmp_path / "out")]
    assert main([*command, "--only", "scan", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_network_without_a_scan_shows_all_else(make_checkpoint, image, tmp_path, capsys):
    command = ["inspect", str(make_checkpoint("nnUNetTrainerMMUNetNoSSM")), str(image)]
    assert main([*command, "--out", str(tmp_path / "out"), "--only", "scan"]) == 2
    assert "no Mamba block at all" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "no scans: MetaUNet has no Mamba block at all" in capsys.readouterr().out


def test_a_network_that_the_plans_name_is_found_under_any_trainer(
    make_checkpoint, make_plans, image, tmp_path
):
    plans = make_plans()
    for configuration in plans["configurations"].values():
        named = replace_network(configuration["architecture"], "umamba_bot", configuration["patch_size"])
        configuration["architecture"] = named
    file = make_checkpoint("nnUNetTrainerUMambaBot", plans=plans)
    content = torch.load(file, weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainer_5epochs"}, file)
    trained = load_trained(file)
    assert len(record_scan_inputs(trained.network, read_patch(trained, [image]).data)) == 1


def test_a_persons_own_trainer_is_found_as_nnunet_finds_it(
    make_checkpoint, image, tmp_path, monkeypatch, capsys
):
    """It derives from ours and has arguments of its own; without its class, the error names the trainer."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_trainers.py").write_text(
        "from nnunet_mamba.trainers import nnUNetTrainerMMUNet\n"
        "class nnUNetTrainerMine(nnUNetTrainerMMUNet):\n"
        "    overrides = {'order': 'uni'}\n"
    )
    file = make_checkpoint("nnUNetTrainerMMUNet_B1")  # one direction too
    content = torch.load(file, weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainerMine"}, file)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert main(["inspect", str(file), str(image), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "nnUNetTrainerMine, which nnU-Net does not find; set nnUNet_extTrainer" in said
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    trained = load_trained(file)
    assert trained.trainer == "nnUNetTrainerMine"
    assert len(record_scan_inputs(trained.network, read_patch(trained, [image]).data)) > 1


def test_other_files_and_other_trainers_are_refused(make_checkpoint, image, tmp_path, capsys):
    torch.save({"model": {}}, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth"), str(image)]) == 2
    assert "lacks network_weights, init_args, trainer_name" in capsys.readouterr().err
    content = torch.load(make_checkpoint(), weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainerPrimus"}, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth"), str(image)]) == 2
    assert "The checkpoint is of nnUNetTrainerPrimus" in capsys.readouterr().err
    content["network_weights"].popitem()
    torch.save(content, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth"), str(image)]) == 2
    assert "do not fit the network of nnUNetTrainerMMUNet" in capsys.readouterr().err


def test_there_is_nothing_to_see_in_numbers_that_are_not_finite(make_checkpoint, image, tmp_path, capsys):
    file, out = make_checkpoint(), tmp_path / "out"
    command = ["inspect", str(file), str(image), "--patch", "8", "8", "8", "--out", str(out)]
    content = torch.load(file, weights_only=False)
    key = "decoder.seg_layers.1.weight"
    for value, said in (
        (torch.nan, f"{file.name}: 1 of"),  # as it was saved
        (torch.finfo(torch.float32).max, "The first layer whose output is not finite is"),  # as it computes
    ):
        content["network_weights"][key].fill_(value)
        torch.save(content, file)
        assert main(command) == 2
        assert said in capsys.readouterr().err
    assert not (out / "inspect.npz").exists()


def test_a_file_too_many_is_refused(make_checkpoint, image, capsys):
    assert main(["inspect", str(make_checkpoint()), str(image), str(image)]) == 2
    assert "trained on 1 channels; got 2 image files" in capsys.readouterr().err


def test_a_voxel_keeps_its_place_through_resampling_and_cropping(make_checkpoint, make_plans, tmp_path):
    """Slices of 2 mm become 1 mm, and a margin of zeros is cut off: z doubles, all begin at the margin."""
    values = np.zeros((14, 22, 20), np.float32)
    values[2:12, 3:19, 3:19] = np.random.default_rng(0).normal(5, 1, (10, 16, 16))
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "thick_0000.nii.gz"))
    trained = load_trained(make_checkpoint())
    patch = read_patch(trained, [tmp_path / "thick_0000.nii.gz"], centre=(2, 3, 3))
    assert (patch.cropped, patch.scale, patch.corner) == ((2, 3, 3), (2.0, 1.0, 1.0), (0, 0, 0))
    assert patch.locate((2, 3, 3)) == (1, 0, 0)
    assert patch.locate((6, 10, 18)) == (9, 7, 15)
    assert patch.extent() == "z 2 to 9, y 3 to 18, x 3 to 18"


def test_patches_stay_within_the_image_or_surround_it():
    assert [first_voxel(middle, 4, 10) for middle in (0, 5, 9)] == [0, 3, 6]
    assert first_voxel(1, 7, 3) == -2
    data = torch.arange(3.0)[None]
    assert crop_with_zeros(data, (-2,), (7,)).tolist() == [[0, 0, 0, 1, 2, 0, 0]]


def test_a_coarse_map_is_repeated_onto_the_patch():
    coarse = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert upsample_to_patch(coarse, (2, 2), (4, 3)).tolist() == [[1, 1, 2], [1, 1, 2], [3, 3, 4], [3, 3, 4]]


def test_spreads_by_hand():
    found = measure_spread("block", "out", False, torch.tensor([[-1.0, 1.0], [1.0, 99.0]]))
    assert (found.mean, found.variance) == (25.0, pytest.approx(1826.0))
    assert found.histogram.sum() == pytest.approx(1)
    assert found.histogram[-1] == 0.25  # 99 lies beyond the last edge
    assert len(found.histogram) == BINS


def test_parts_of_a_block_are_told_apart(make_checkpoint, image):
    trained = load_trained(make_checkpoint())
    found = measure_spreads(trained.network, read_patch(trained, [image]).data)
    inside = {one.part: one.inside for one in found}
    assert inside == {"skip": False, "convs": True, "mixed": True, "mixer": True, "out": False}
    deviations = {one.part: one.variance**0.5 for one in found if one.block == found[0].block}
    assert deviations["mixed"] < 0.2 < 0.8 < deviations["mixer"]  # without, and with, the residual of its own
    assert {one.block for one in found if one.part == "mixer"} == {"encoder.stages.1.1", "encoder.stages.2.1"}
    convs = [one.variance for one in found if one.part == "convs" and one.block == "encoder.stages.1.1"]
    assert convs == [pytest.approx(1, abs=0.05)]  # it ends with an instance norm


def test_the_field_of_a_convolution_is_its_kernel():
    """Weights 1, -2, 3 over three voxels; half of the gradient is the 3 one voxel on."""
    conv = nn.Conv1d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[0.0, 0, 0]], [[1, -2, 3]]]))
    field = compute_receptive_field(conv, torch.ones(1, 1, 7), (3,))
    assert field.label == 1
    assert field.gradient.tolist() == [0, 0, 1, 2, 3, 0, 0]
    assert (field.radius(1 / 3), field.radius(0.5), field.radius(1.0)) == (0, 1, 1)
