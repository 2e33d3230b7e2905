"""Images, atomic writes, restricted loading of checkpoints, processors, parts of messages."""
