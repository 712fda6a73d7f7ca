"""PhC-C2DH-U373: glioblastoma-astrocytoma cells in phase contrast, 696x520 pixels; data of the U-Net paper.

Splits and annotations: see `segjax.data.sets.cell_tracking`. The U-Net paper (Ronneberger et al. 2015, section 4)
trained on 35 partially annotated images of the challenge of 2015 and was scored on hidden ones, another protocol.
"""

from functools import partial

from segjax.data.archive import load_archive
from segjax.data.sets.cell_tracking import archive

ARCHIVE = archive("phc_u373", "PhC-C2DH-U373", frames=115)
INFO = ARCHIVE.info

load = partial(load_archive, ARCHIVE)
