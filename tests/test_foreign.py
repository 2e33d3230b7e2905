"""Other repositories' trained folders and weights. That names are converted rightly is shown in
tests/networks/test_golden.py; here, that what comes out is whole, usable by nnU-Net, and safe."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.cli import main
from nnunet_mamba.foreign import import_folder, import_weights

GOLDEN = Path(__file__).parent / "golden" / "umamba_bot_2d.npz"
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


def umamba_bot():
    return create_network(
        "umamba_bot",
        input_channels=1,
        num_classes=3,
        features_per_stage=[8, 16, 32, 32, 32],
        strides=[1, 2, 2, 2, 2],
        kernel_sizes=[[3, 3]] * 5,
        patch_size=PATCH,
    )


def in_their_names(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as U-Mamba's code names them, second names included."""
    arrays = np.load(GOLDEN)
    theirs, aliases = (json.loads(str(arrays[f"{key}_json"])) for key in ("state_dict", "alias"))
    ours = {source: name for name, source in convert_state_dict({k: k for k in theirs}, "umamba").items()}
    weights = network.state_dict()
    return {key: weights[ours[aliases.get(key, key)]] for key in theirs}


@pytest.fixture
def fork_folder(tmp_path, make_plans):
    """A folder as U-Mamba's fork leaves it, folds 0 and all, and the network that it holds."""
    torch.manual_seed(0)
    network = umamba_bot().eval()
    folder = tmp_path / "nnUNetTrainerUMambaBot__nnUNetPlans__2d"
    plans = make_plans()
    plans["configurations"] = {"2d": OLD_CONFIGURATION}
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    for fold in ("0", "all"):
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": in_their_names(network),
            "optimizer_state": {"state": {}},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float32(0.5)]},
            "_best_ema": np.float32(0.5),
            "current_epoch": 1000,
            "init_args": {"configuration": "2d", "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainerUMambaBot",
            "inference_allowed_mirroring_axes": (0, 1),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder, network


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans format")
def test_nnunet_predicts_with_an_imported_folder(fork_folder, tmp_path, monkeypatch):
    """Loaded by nnU-Net's own predictor, it gives the logits of the network that was trained."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_mamba.resources import resource_dir

    monkeypatch.setenv("nnUNet_extTrainer", str(resource_dir("nnUNet_trainers")))
    folder, network = fork_folder
    out = import_folder(folder, tmp_path / "imported")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(out), None, "checkpoint_final.pth")
    assert predictor.trainer_name == "nnUNetTrainerUMambaBot"
    assert predictor.allowed_mirroring_axes == (0, 1)
    x = torch.randn(1, 1, *PATCH)
    with torch.no_grad():
        assert torch.equal(predictor.network.eval()(x), network(x))
    content = torch.load(out / "fold_all" / "checkpoint_final.pth", weights_only=True)
    assert content["init_args"]["fold"] == "all"
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "fold_0", "fold_all", "plans.json"]


def test_nothing_is_left_behind_by_an_import_that_fails(fork_folder, tmp_path):
    folder, _ = fork_folder
    path = folder / "fold_all" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["network_weights"]["mamba_layer.norm.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"checkpoint_final.pth does not fit [^$]*Missing key"):
        import_folder(folder, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir() if "imported" in path.name] == []


def test_folders_that_cannot_be_imported_say_why(fork_folder, tmp_path):
    folder, _ = fork_folder
    with pytest.raises(ValueError, match="exists already; name another"):
        import_folder(folder)  # ours would have the fork's own name
    with pytest.raises(
        ValueError, match="no trained folder of nnU-Net; expected one that is named TRAINER__"
    ):
        import_folder(tmp_path)
    other = folder.rename(tmp_path / "nnUNetTrainerLightMUNet__nnUNetPlans__2d")
    with pytest.raises(
        ValueError, match="nnUNetTrainerLightMUNet is unknown; known are nnUNetTrainerUMambaBot"
    ):
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
    from nnunet_mamba.foreign import _arguments

    arguments = {"num_classes": 7, **BARE[name]}
    assert _arguments(name, create_network(name, **arguments).state_dict()) == arguments


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


@pytest.mark.parametrize("wrapper", [None, "model", "model_ema"])
def test_a_file_of_weights_becomes_one_for_pretrained_weights(tmp_path, wrapper, capsys):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    network = vm_unet_file(tmp_path / "best.pth", wrapper)
    out = tmp_path / "ours.pth"
    options = ["--source", "vm_unet", "--out", str(out), "--channels", "1"]
    assert main(["import-checkpoint", str(tmp_path / "best.pth"), *options]) == 0
    assert "holds vm_unet with num_classes=2" in capsys.readouterr().out
    content = torch.load(out, weights_only=True)
    assert content["arguments"] == {"num_classes": 2, **BARE["vm_unet"], "input_channels": 1}
    other = create_network("vm_unet", num_classes=5, **BARE["vm_unet"] | {"input_channels": 1})
    load_pretrained_weights(other, str(out))
    for key, value in other.state_dict().items():
        assert "seg_layers" in key or torch.equal(value, network.state_dict()[key])


def test_files_that_cannot_be_imported_say_why(tmp_path, capsys):
    path, out = tmp_path / "best.pth", tmp_path / "ours.pth"
    vm_unet_file(path, "model")
    with pytest.raises(ValueError, match="no 'model_ema'; it has model"):
        import_weights(path, "vm_unet", out, entry="model_ema")
    with pytest.raises(ValueError, match="not for 'umamba'; of forks of nnU-Net, import the trained folder"):
        import_weights(path, "umamba", out)
    with pytest.raises(ValueError, match="no state dict of mamba_unet"):
        import_weights(path, "mamba_unet", out)
    torch.save({"weights": "none"}, path)
    with pytest.raises(ValueError, match="weights in it is no tensor of weights"):
        import_weights(path, "vm_unet", out)
    assert not out.exists()
    assert main(["import-checkpoint", str(path)]) == 2
    assert "needs --source" in capsys.readouterr().err
