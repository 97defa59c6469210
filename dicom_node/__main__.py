"""`trabecula`, the command, and `python -m dicom_node`, which is the same."""

import gc

gc.disable()  # what modules make stays: to look for garbage in it took a fifth of a start

from dicom_node.cli import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
