"""nnU-Net's names, folders, logs, checkpoints and commands, shared by core and study."""
