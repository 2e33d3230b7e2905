"""Plans that papers have published, as arguments of `create_network`."""

ABDOMEN_CT = {  # nnU-Net's plan for 40x224x192 abdominal CT
    "input_channels": 1,
    "num_classes": 14,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
    "patch_size": [40, 224, 192],
}
