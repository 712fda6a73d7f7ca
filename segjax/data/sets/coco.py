"""What the data sets on COCO's images share: the 80 things, their ids, the place of the images, licence and citation.

Names and ids are those of labels.txt in https://github.com/nightrome/cocostuff and of panoptic_coco_categories.json in
https://github.com/cocodataset/panopticapi.
"""

from pathlib import Path

from segjax.data.archive import first_folder

WITHOUT_PIXELS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of things that were given out and never annotated: street sign, hat, shoe and so on."""

THING_IDS = tuple(number for number in range(1, 92) if number not in WITHOUT_PIXELS)

THING_NAMES = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,"
    "fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)

COUNTS = {"train": 118_287, "val": 5_000}
"""Of COCO 2017."""

LICENCE = "Annotations: CC BY 4.0. Images: Flickr's terms of use, see https://cocodataset.org/#termsofuse"

CITATION = """@inproceedings{lin2014microsoft,
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva
            and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  title = {Microsoft {COCO}: Common objects in context},
  booktitle = {European Conference on Computer Vision},
  year = {2014}
}"""


def image_folder(root: Path, split: str) -> Path:
    """`images/<split>2017`, or `<split>2017` where that is there.

    Raises:
      FileNotFoundError: neither is there.
    """
    return first_folder(root, f"{split}2017", ("images", "")) / f"{split}2017"
