"""DIC-C2DH-HeLa: HeLa cells in differential interference contrast, 512x512 pixels; data of the U-Net paper.

Splits and annotations: see `segjax.data.sets.cell_tracking`. The U-Net paper (Ronneberger et al. 2015, section 4)
trained on 20 partially annotated images of the challenge of 2015 and was scored on hidden ones, another protocol.
"""

from functools import partial

from segjax.data.archive import load_archive
from segjax.data.sets.cell_tracking import archive

ARCHIVE = archive("dic_hela", "DIC-C2DH-HeLa", frames=84)
INFO = ARCHIVE.info

load = partial(load_archive, ARCHIVE)
