"""Norms that are exported are torch's, and onnxruntime's rounding does not grow with the voxels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_mamba.inference.onnx_norms import norms_by_axis

NORMS = {
    "instance, 2D": (nn.InstanceNorm2d(6), (2, 6, 5, 7)),
    "instance, 3D": (nn.InstanceNorm3d(6, eps=0.1, affine=True), (2, 6, 4, 5, 3)),
    "running statistics": (nn.InstanceNorm2d(6, track_running_stats=True, affine=True), (2, 6, 5, 7)),
    "groups": (nn.GroupNorm(3, 6, eps=0.1), (2, 6, 4, 5, 3)),
    "groups without weights": (nn.GroupNorm(2, 6, affine=False), (2, 6, 5)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_by_axis_are_torchs(name):
    torch.manual_seed(0)
    norm, shape = NORMS[name]
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    norm, x = norm.double().eval(), 3 + torch.randn(shape, dtype=torch.float64)
    expected = norm(x)
    with norms_by_axis(), torch.no_grad():
        torch.testing.assert_close(norm(x), expected.detach(), rtol=1e-12, atol=1e-12)


def test_torchs_functions_are_back_afterwards():
    before = F.instance_norm, F.group_norm
    with pytest.raises(ZeroDivisionError), norms_by_axis():
        assert before[0] is not F.instance_norm and before[1] is not F.group_norm
        raise ZeroDivisionError
    assert before == (F.instance_norm, F.group_norm)


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(1), nn.GroupNorm(1, 1)], ids=["instance", "group"])
def test_onnxruntime_rounds_no_more_for_many_voxels(norm, tmp_path):
    """Its own operator is wrong by 5e-4 here."""
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
    from nnunet_mamba.inference.onnx_export import export_network, predict_exactly

    torch.manual_seed(0)
    image = (1 + torch.randn(1, 1, 96, 96, 96)).relu()
    export_network(norm.eval(), image, tmp_path / "norm.onnx")
    session = runtime.InferenceSession(tmp_path / "norm.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    assert (found - predict_exactly(norm, image)).abs().max() < 1e-5
