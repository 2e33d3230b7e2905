"""Other repositories' trained folders and weights: what comes out is whole, usable by nnU-Net, and safe."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import fill, golden_file

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.cli import import_checkpoint, main
from nnunet_mamba.trainers.import_fork import NETWORKS, TRAINERS, _network, import_folder, import_weights

PATCH = [64, 64]
OLD_CONFIGURATION = {  # of nnU-Net 2.1, which the forks are built on; block counts as U-Mamba left them
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": PATCH,
    "median_image_size_in_voxels": [64.0, 64.0],
    "spacing": [1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 8,
    "unet_max_num_features": 32,
    "n_conv_per_stage_encoder": [2, 2, 2, 1, 1],
    "n_conv_per_stage_decoder": [2, 2, 2, 1],
    "num_pool_per_axis": [4, 4],
    "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]],
    "conv_kernel_sizes": [[3, 3]] * 5,
    "batch_dice": True,
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
}


SMALL_3D = {
    "patch_size": [8, 16, 16],
    "unet_max_num_features": 64,
    "n_conv_per_stage_encoder": [2] * 4,
    "n_conv_per_stage_decoder": [2] * 3,
    "num_pool_per_axis": [2, 3, 3],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "spacing": [1.0, 1.0, 1.0],
}
FOUR_STAGES = {
    "unet_max_num_features": 64,
    "n_conv_per_stage_encoder": [2] * 4,
    "n_conv_per_stage_decoder": [2] * 3,
    "num_pool_per_axis": [3, 3],
    "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2], [2, 2]],
    "conv_kernel_sizes": [[3, 3]] * 4,
}
RESENC = {  # U-Mamba2's fork is of nnU-Net 2.6; its trainers build what the plans name
    **SMALL_3D,
    "architecture": {
        "network_class_name": "nnunetv2.nets.UMambaBot2",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [8, 16, 32, 40],
            "strides": SMALL_3D["pool_op_kernel_sizes"],
            "kernel_sizes": SMALL_3D["conv_kernel_sizes"],
            "n_blocks_per_stage": [1, 3, 2, 2],
            "n_conv_per_stage_decoder": [1, 1, 1],
        },
        "_kw_requires_import": [],
    },
}
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def keys_of(name: str) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The state dict of a golden file: shapes by name, and first names by second names."""
    about = golden_file(name).about
    return about["state_dict"], about.get("aliases", {})


def write_fork_folder(folder: Path, weights: dict, plans: dict, folds=("0",)) -> Path:
    """A folder as the forks leave it."""
    trainer, _, configuration = folder.name.split("__")
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": weights,
            "optimizer_state": {"state": {}},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float32(0.5)]},
            "_best_ema": np.float32(0.5),
            "current_epoch": 1000,
            "init_args": {"configuration": configuration, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": (0, 1),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


@pytest.fixture
def old_plans(make_plans):
    """A function: plans of nnU-Net 2.1 with one configuration."""

    def make(name: str, **changes) -> dict:
        return {**make_plans(), "configurations": {name: {**OLD_CONFIGURATION, **changes}}}

    return make


@pytest.fixture
def fork_folder(tmp_path, old_plans):
    """U-Mamba Bot's, folds 0 and all, with the weights of its golden file."""
    shapes, aliases = keys_of("umamba_bot_2d")
    weights = {key: fill(aliases.get(key, key), shape) for key, shape in shapes.items()}
    folder = tmp_path / "nnUNetTrainerUMambaBot__nnUNetPlans__2d"
    return write_fork_folder(folder, weights, old_plans("2d"), folds=("0", "all"))


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
def test_nnunet_predicts_with_an_imported_folder(fork_folder, tmp_path, monkeypatch):
    """Loaded by nnU-Net's own predictor, it gives the logits that U-Mamba's code gives."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_mamba.io.resources import resource_dir

    monkeypatch.setenv("nnUNet_extTrainer", str(resource_dir("nnUNet_trainers")))
    out = import_folder(fork_folder, tmp_path / "imported")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(out), None, "checkpoint_final.pth")
    assert predictor.trainer_name == "nnUNetTrainerUMambaBot"
    assert predictor.allowed_mirroring_axes == (0, 1)
    golden = golden_file("umamba_bot_2d")
    with torch.no_grad():
        logits = predictor.network.double().eval()(golden.input.double())
    assert golden.outputs["out0"].error(logits) < 1e-8
    content = torch.load(out / "fold_all" / "checkpoint_final.pth", weights_only=True)
    assert content["init_args"]["fold"] == "all"
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "fold_0", "fold_all", "plans.json"]


FORKS = {  # the fork's trainer: golden file with its names of weights, our trainer, changes of the plans
    "nnUNetTrainerUMambaEncNoAMP": ("umamba_enc_2d", "nnUNetTrainerUMambaEnc", {}),
    "nnUNetTrainerSegMamba": ("taming_uni_3d", "nnUNetTrainerMambaUni", SMALL_3D),
    "nnUNetTrainerPanSegMamba": ("taming_bi_3d", "nnUNetTrainerMambaBi", SMALL_3D),
    "nnUNetTrainerMultiSegMamba": ("taming_multi_3d", "nnUNetTrainerMambaMulti", SMALL_3D),
    "nnUNetTrainerSwinUMamba": ("swinumamba", "nnUNetTrainerSwinUMamba", {}),
    "nnUNetTrainerSwinUMambaDScratch": ("swinumamba_d", "nnUNetTrainerSwinUMambaD", {}),
    "nnUNetTrainerLightMUNet": ("lightm_unet_2d", "nnUNetTrainerLightMUNet", {}),
    "nnUNetTrainerUxLSTMBot": ("xlstm_bot_3d_strong", "nnUNetTrainerXLSTMUNetBot", SMALL_3D),
    "nnUNetTrainerUxLSTMEncNoAMP": ("xlstm_enc_2d_strong", "nnUNetTrainerXLSTMUNetEnc", {}),
    "nnUNetTrainerLKMUNet": ("lkm_unet_2d", "nnUNetTrainerLKMUNet", FOUR_STAGES),
    "nnUNetTrainerLMaUNet": ("lkm_unet_2d", "nnUNetTrainerLKMUNet", FOUR_STAGES),
    "nnUNetTrainer_TF3_Task1_1500ep_accum2": ("umamba2_3d", "nnUNetTrainerUMamba2", RESENC),
    "nnUNetTrainer_STSR_Task1_accum2": ("umamba2_3d", "nnUNetTrainerUMamba2", RESENC),
}


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
@pytest.mark.parametrize("fork_trainer", FORKS)
def test_every_fork_finds_its_trainer(fork_trainer, tmp_path, old_plans):
    """Random weights of the network that our trainer builds, under the fork's names, come back."""
    file, trainer, changes = FORKS[fork_trainer]
    shapes, aliases = keys_of(file)
    name = "3d_fullres" if "3d" in file else "2d"
    plans = old_plans(name, **changes)
    weights = _network(trainer, plans, DATASET, name).state_dict()
    source = next(source for source, ours in TRAINERS.values() if ours == trainer)
    ours = {theirs: key for key, theirs in convert_state_dict({key: key for key in shapes}, source).items()}
    unused = torch.ones(1)  # a norm of xLSTM-UNet
    renamed = {key: weights.get(ours.get(aliases.get(key, key)), unused) for key in shapes}
    folder = write_fork_folder(tmp_path / f"{fork_trainer}__nnUNetPlans__{name}", renamed, plans)
    out = import_folder(folder, tmp_path / "imported")
    content = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == trainer
    assert content["network_weights"].keys() == weights.keys()
    assert all(torch.equal(content["network_weights"][key], weights[key]) for key in weights)


def test_nothing_is_left_behind_by_an_import_that_fails(fork_folder, tmp_path):
    folder = fork_folder
    path = folder / "fold_all" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["network_weights"]["mamba_layer.norm.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"checkpoint_final.pth does not fit [^$]*Missing key"):
        import_folder(folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir() if "imported" in path.name] == []


def test_folders_that_cannot_be_imported_say_why(fork_folder, tmp_path):
    folder = fork_folder
    with pytest.raises(ValueError, match="exists already; name another"):
        import_folder(folder)  # ours would have the fork's own name
    with pytest.raises(
        ValueError, match="not a trained folder of nnU-Net; expected one that is named TRAINER__"
    ):
        import_folder(tmp_path)
    other = folder.rename(tmp_path / "nnUNetTrainerOther__nnUNetPlans__2d")
    with pytest.raises(ValueError, match="nnUNetTrainerOther is unknown; known are nnUNetTrainerUMambaBot"):
        import_folder(other)
    empty = other.rename(folder)
    for fold in ("fold_0", "fold_all"):
        shutil.rmtree(empty / fold)
    with pytest.raises(ValueError, match="has no fold_N with one of checkpoint_final"):
        import_folder(empty, tmp_path / "out")


WIDTHS = [8, 16, 32, 64]
BARE = {
    "vm_unet": {"input_channels": 3, "features_per_stage": WIDTHS, "depths": [1, 2, 1, 1]}
    | {"depths_decoder": [1, 1, 2, 1]},
    "mamba_unet": {"input_channels": 3, "features_per_stage": WIDTHS, "depths": [1, 2, 1, 1]}
    | {"depths_decoder": [1, 2, 1]},
    "swin_umamba": {"input_channels": 2, "features_per_stage": [5, *WIDTHS], "depths": [1, 2, 3, 1]},
    "swin_umamba_d": {"input_channels": 2, "features_per_stage": WIDTHS, "depths": [1, 2, 3, 1]}
    | {"depths_decoder": [2, 2, 1]},
    "segmamba": {"input_channels": 2, "features_per_stage": [4, 6, 8, 10], "depths": [1, 2, 1, 1]}
    | {"hidden_size": 12},
}


@pytest.mark.parametrize("name", BARE)
def test_sizes_are_read_off_the_weights(name):
    from nnunet_mamba.trainers.import_fork import _infer_arguments

    arguments = {"num_classes": 7, **BARE[name]}
    assert _infer_arguments(name, create_network(name, **arguments).state_dict()) == arguments


def vm_unet_file(path: Path, wrapper: str | None) -> torch.nn.Module:
    """A file as VM-UNet's code saves it, from a small network of ours."""
    torch.manual_seed(0)
    network = create_network("vm_unet", num_classes=2, **BARE["vm_unet"]).eval()
    names = [  # ours, theirs
        ("encoder.patch_embed.", "patch_embed."),
        ("encoder.downsamples.{}.", "layers.{}.downsample."),
        ("encoder.layers.{}.", "layers.{}.blocks."),
        ("decoder.layers.{}.", "layers_up.{}.blocks."),
        ("decoder.final_expand.", "final_up."),
        ("decoder.seg_layers.0.", "final_conv."),
    ]
    weights = {}
    for key, value in network.state_dict().items():
        for level in range(4):
            key = key.replace(f"decoder.expands.{level}.", f"layers_up.{level + 1}.upsample.")
            for ours, theirs in names:
                key = key.replace(ours.format(level), theirs.format(level))
        weights[f"vmunet.{key}"] = value
    torch.save(weights if wrapper is None else {wrapper: weights, "epoch": 3}, path)
    return network


@pytest.mark.parametrize("wrapper", [None, "model", "model_ema", "model_state_dict"])
def test_a_file_of_weights_becomes_one_for_pretrained_weights(tmp_path, wrapper, capsys):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    network = vm_unet_file(tmp_path / "best.pth", wrapper)
    out = tmp_path / "ours.pth"
    options = ["--source", "vm_unet", "--out", str(out), "--channels", "1"]
    assert main(["import-checkpoint", str(tmp_path / "best.pth"), *options]) == 0
    said = capsys.readouterr().out
    assert "holds vm_unet with num_classes=2" in said
    assert f"Took {'the whole file' if wrapper is None else f'entry {wrapper}'} of" in said
    content = torch.load(out, weights_only=True)
    assert content["arguments"] == {"num_classes": 2, **BARE["vm_unet"], "input_channels": 1}
    other = create_network("vm_unet", num_classes=5, **BARE["vm_unet"] | {"input_channels": 1})
    load_pretrained_weights(other, str(out))
    for key, value in other.state_dict().items():
        assert "seg_layers" in key or torch.equal(value, network.state_dict()[key])


def test_of_several_weights_in_a_file_one_is_named(tmp_path, capsys):
    network = vm_unet_file(tmp_path / "both.pth", "model_ema")
    averaged = torch.load(tmp_path / "both.pth", weights_only=True)["model_ema"]
    trained = {key: value + 1 for key, value in averaged.items()}
    torch.save({"model_ema": averaged, "model": trained}, tmp_path / "both.pth")
    key = "encoder.patch_embed.proj.weight"
    for entry, shift in (("auto", 1), ("model", 1), ("model_ema", 0)):
        out = tmp_path / f"{entry}.pth"
        options = ["--source", "vm_unet", "--out", str(out), "--weights", entry]
        assert main(["import-checkpoint", str(tmp_path / "both.pth"), *options]) == 0
        name, aside = ("model", "model_ema") if shift else ("model_ema", "model")
        assert f"Took entry {name} ({aside} left aside)" in capsys.readouterr().out
        taken = torch.load(out, weights_only=True)["network_weights"][key]
        assert torch.equal(taken, network.state_dict()[key] + shift)


def test_files_that_cannot_be_imported_say_why(tmp_path, capsys):
    path, out = tmp_path / "best.pth", tmp_path / "ours.pth"
    vm_unet_file(path, "model")
    with pytest.raises(ValueError, match="no 'model_ema'; it has model"):
        import_weights(path, "vm_unet", out, entry="model_ema")
    with pytest.raises(ValueError, match="not for 'umamba'; of forks of nnU-Net, import the trained folder"):
        import_weights(path, "umamba", out)
    with pytest.raises(ValueError, match="not a state dict of mamba_unet"):
        import_weights(path, "mamba_unet", out)
    torch.save({"weights": "none"}, path)
    with pytest.raises(ValueError, match="expected tensors, found nothing"):
        import_weights(path, "vm_unet", out)
    assert not out.exists()
    assert main(["import-checkpoint", str(path)]) == 2
    assert "needs --source" in capsys.readouterr().err


def test_vm_unets_latest_file_with_counts_of_operations_is_imported(tmp_path):
    """`latest.pth` of VM-UNet, and the buffers that thop adds to every module."""
    network = vm_unet_file(tmp_path / "latest.pth", "model_state_dict")
    content = torch.load(tmp_path / "latest.pth", weights_only=True)
    counts = {"total_ops", "vmunet.total_params", "vmunet.layers.0.blocks.0.total_ops"}
    content["model_state_dict"] |= {key: torch.zeros(1, dtype=torch.float64) for key in counts}
    content |= {"optimizer_state_dict": {"state": {}, "param_groups": []}, "min_loss": 0.1}
    torch.save(content, tmp_path / "latest.pth")
    done = import_weights(tmp_path / "latest.pth", "vm_unet", tmp_path / "ours.pth")
    assert done.taken == "entry model_state_dict"
    written = torch.load(tmp_path / "ours.pth", weights_only=True)["network_weights"]
    assert written.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in written.items())


def test_a_file_whose_weights_are_not_finite_is_refused_by_name(tmp_path, capsys):
    vm_unet_file(tmp_path / "best.pth", "model")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    for number, key in enumerate(content["model"]):
        if number % 40 == 3:
            content["model"][key].view(-1)[0] = torch.nan
    torch.save(content, tmp_path / "best.pth")
    out = tmp_path / "ours.pth"
    assert (
        main(["import-checkpoint", str(tmp_path / "best.pth"), "--source", "vm_unet", "--out", str(out)]) == 2
    )
    said = capsys.readouterr().err
    assert (
        "best.pth, entry model: 4 of 157 tensors hold NaN or infinity: vmunet." in said and "1 more" in said
    )
    assert not out.exists()


def test_so_are_numbers_that_are_too_large_for_our_networks(tmp_path):
    vm_unet_file(tmp_path / "best.pth", None)
    weights = torch.load(tmp_path / "best.pth", weights_only=True)
    weights["vmunet.final_conv.bias"] = weights["vmunet.final_conv.bias"].double() + 1e200
    torch.save(weights, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"seg_layers.0.bias\. Its numbers are too large for float32"):
        import_weights(tmp_path / "best.pth", "vm_unet", tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()


def test_a_folder_with_one_broken_fold_is_refused_whole(fork_folder, tmp_path):
    path = fork_folder / "fold_all" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"]["mamba_layer.norm.weight"][0] = torch.inf
    torch.save(checkpoint, path)
    found = r"fold_all.checkpoint_final.pth, entry network_weights: 1 of .*: mamba_layer.norm.weight\."
    with pytest.raises(ValueError, match=found):
        import_folder(fork_folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir() if "imported" in path.name] == []


def test_the_command_line_names_the_sources_whose_weights_can_be_imported():
    assert tuple(NETWORKS) == import_checkpoint.SOURCES
