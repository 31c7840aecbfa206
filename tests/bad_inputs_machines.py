"""Bad inputs of training on several devices; see `bad_inputs.py`."""

from bad_inputs import HUGE, TRAIN, BadInput

MACHINES = [
    BadInput("no devices", f"{TRAIN} --devices=0", ("--devices", "greater than or equal to", "not '0'")),
    BadInput("devices by name", f"{TRAIN} --devices=cuda:0,cuda:1", ("--devices", "valid integer", "'cuda:0,cuda:1'")),
    BadInput("batch norm over one device", f"{TRAIN} --sync-batch-norm", ("--sync-batch-norm", "give --devices too")),
    BadInput("threads in processes", f"{TRAIN} --devices 2 --step threads", ("step threads", "one process, not in 2")),
    BadInput(
        "2^64 devices", f"{TRAIN} --devices {HUGE}", ("--devices", "less than or equal to 64", "holds all images", HUGE)
    ),
    BadInput(
        "more devices than images in a batch",
        f"{TRAIN} --devices 3 --set batch_size=2",
        ("--devices 3: batch_size is 2; every device needs at least one image",),
    ),
    BadInput(
        "more devices than images to validate on",
        f"{TRAIN} --devices 30",
        ("--devices 30: val_images is 20; every device needs at least one image",),
    ),
]
