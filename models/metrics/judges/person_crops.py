"""Features of the crop of a person, where no face can be compared: EfficientNet-Lite0 on the box of the person mask."""

import numpy as np

from ....datasets.arrays import Floats, Floats32, Frames
from ..identity import cosine_similarity
from ..person_regions import crops, mask_boxes
from .efficientnet import NUM_FEATURES, EfficientNetLite0
from .person_mask import PersonMask

SIDE = 224


class PersonCrops:
    """Clothes, hair and build of a person as a whole.

    Args:
        network: the network of the features.
        masks: finds the person, and hides the place, in which all frames of a clip are alike.
    """

    name = "efficientnet-lite0,person-crop"
    missing = "no_person"
    similarity = staticmethod(cosine_similarity)

    def __init__(self, network: EfficientNetLite0, masks: PersonMask) -> None:
        self._network, self._masks = network, masks

    def embed(self, frames: Frames, boxes: Floats | None = None) -> Floats32:
        """Return the features of the person in each frame [F, 1280]; NaN where nobody is found.

        Args:
            frames: uint8 RGB [F, H, W, 3].
            boxes: [F, 4], of the driven joints (`person_regions.joint_boxes`); None: of the masks.
        """
        masks = self._masks.masks(frames)
        where = mask_boxes(masks) if boxes is None else boxes
        found = np.full((len(frames), NUM_FEATURES), np.nan, np.float32)
        present = ~np.isnan(where).any(axis=1)
        if present.any():
            found[present] = self._network.features(crops(frames[present], where[present], SIDE, masks[present]))
        return found
