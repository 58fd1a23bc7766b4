"""The frozen networks of the metrics: which are here, and one of each per worker, loaded when first needed.

This is the only module that knows the classes of `models.metrics.judges`. Each is constructed from its weights and a
device, and does its own preprocessing.
"""

import hashlib
import importlib
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ... import SteadyDancerError
from ...datasets.storage.digests import content_digest
from ...datasets.supplied_poses import SUPPLIED
from ...models.metrics.variants import FVD_VARIANTS
from ...models.pose.estimator import REQUIRED_WEIGHTS
from ...models.weights import lookup
from ...models.weights.catalogue import Weight
from ..common.poses import ESTIMATORS, load_pose_estimator
from .catalogue import Group
from .scores import NotMeasured

T = TypeVar("T")
PACKAGE = "steadydancer.models.metrics.judges"
MAX_KEPT = 64  # driving videos whose poses a worker keeps: several pairs and methods share one


class Judge(NamedTuple):
    """A judge's module and class in `models.metrics.judges`, its weights (any one row), and its other arguments."""

    module: str
    name: str
    weights: tuple[str, ...]
    arguments: Mapping[str, Any] = {}


JUDGES: Mapping[str, Judge] = {
    "dino": Judge("dino", "Dino", ("dino",)),
    "clip": Judge("clip", "ClipImage", ("clip-vit-b-32",), {"model": "ViT-B-32"}),
    "clip-l": Judge("clip", "ClipImage", ("clip-vit-l-14",), {"model": "ViT-L-14"}),
    "dreamsim": Judge("dreamsim", "DreamSim", ("dreamsim",)),
    "musiq": Judge("musiq", "Musiq", ("musiq",)),
    "raft": Judge("raft", "Raft", ("raft",)),
    "amt": Judge("interpolation", "Interpolator", ("amt",)),
    "inception": Judge("inception", "Inception", ("inception-fid",)),
    "i3d": Judge("i3d", "I3D", FVD_VARIANTS["fvd[humanvid-pair]"].weights),
    "i3d-videogpt": Judge("i3d", "I3D", FVD_VARIANTS["fvd[cd-fvd,16f]"].weights),
    "lpips-vgg": Judge("lpips", "Lpips", ("lpips-vgg",), {"network": "vgg"}),
    "lpips-alex": Judge("lpips", "Lpips", ("lpips-alex",), {"network": "alex"}),
    "face": Judge("face", "Faces", ("dlib-face",)),
    "efficientnet": Judge("efficientnet", "EfficientNetLite0", ("efficientnet-lite0",)),
    "person-mask": Judge("person_mask", "PersonMask", ("selfie-segmentation",)),
}


class Judges:
    """Judges and pose estimators of a worker. A judge is loaded when a metric first asks for it, and kept.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._loaded: dict[str, Any] = {}
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __getitem__(self, name: str) -> Any:
        """Return a judge by its name in `JUDGES`.

        Raises:
            NotMeasured: its package is not installed.
            SteadyDancerError: its weights are not on this machine.
        """
        if name not in self._loaded:
            judge = JUDGES[name]
            try:
                made = getattr(importlib.import_module(f"{PACKAGE}.{judge.module}"), judge.name)
                self._loaded[name] = made(folder_of(judge.weights), device=self.device, **judge.arguments)
            except ImportError as error:
                raise NotMeasured("package_missing", f"{judge.name} cannot be loaded: {error}") from error
        return self._loaded[name]

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned for this key before, if it is one of the last `MAX_KEPT`; for small things."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        value: T = self._kept[key]
        return value

    def aesthetic_head(self) -> tuple[Any, Any]:
        """Return weight [1, 768] and bias [1] of VBench's aesthetic head."""
        if "aesthetic-head" not in self._loaded:
            read = importlib.import_module(f"{PACKAGE}.clip").aesthetic_head
            self._loaded["aesthetic-head"] = read(folder_of(("vbench-aesthetic-head",)))
        head: tuple[Any, Any] = self._loaded["aesthetic-head"]
        return head

    def person_crops(self) -> Any:
        """Return the judge of identity by crops of the person, from two of the others."""
        if "person-crops" not in self._loaded:
            made = importlib.import_module(f"{PACKAGE}.person_crops").PersonCrops
            self._loaded["person-crops"] = made(self["efficientnet"], self["person-mask"])
        return self._loaded["person-crops"]

    def autoencoder(self, components: str | None) -> Any:
        """Return the autoencoder of a folder of components; None without one."""
        if components is None:
            return None
        key = f"vae {components}"
        if key not in self._loaded:
            from ...models.components import load_components

            self._loaded[key] = load_components(components, ("vae",))["vae"].to(self.device)
        return self._loaded[key]

    def estimator(self, name: str) -> Any:
        """Return a pose estimator by name; None if `auto` finds none.

        Raises:
            NotMeasured: its package is not installed.
        """
        key = f"pose {name}"
        if key not in self._loaded:
            try:
                self._loaded[key] = load_pose_estimator(name, self.device)
            except ImportError as error:
                raise NotMeasured("package_missing", f"the estimator {name} cannot be loaded: {error}") from error
        return self._loaded[key]


def folder_of(names: Sequence[str]) -> Path:
    """Return the folder of the first weights that are on this machine, by the names of their rows.

    Raises:
        SteadyDancerError: none are.
    """
    rows = _rows(names)
    found = next((folder for row in rows if (folder := lookup.find(row))), None)
    if found is None:
        raise SteadyDancerError(f"{names[0]}: {_absent(names, rows)}")
    return found


class Availability(NamedTuple):
    """The rows of the catalogue of weights that a group uses, and why it cannot be measured; None if it can."""

    rows: tuple[Weight, ...]
    missing: str | None


def availability(group: Group, estimators: Sequence[str] = ESTIMATORS) -> Availability:
    """Check whether the weights of a group are on this machine. Of alternatives, the first one that is here is used.

    Args:
        group: the group.
        estimators: pose estimators that serve, any of them; `supplied` needs no weights.

    Raises:
        SteadyDancerError: an estimator has an unknown name.
    """
    if group.estimator:
        return _estimators(estimators)
    used, missing = list[Weight](), list[str]()
    for names in group.weights:
        rows = _rows(names)
        here = next((row for row in rows if lookup.find(row)), None)
        used += [here] if here else rows[:1]
        if here is None:
            missing.append(f"weights `{' or '.join(names)}`: {_absent(names, rows)}")
    asked = {name for names in group.weights for name in names}
    judges = {judge.module for judge in JUDGES.values() if asked & set(judge.weights)}
    missing += [f"this version has no judge `{module}`" for module in sorted(judges) if not _has_module(module)]
    return Availability(tuple(used), "; ".join(missing) or None)


def _rows(names: Sequence[str]) -> list[Weight]:
    known = {row.name: row for row in lookup.CATALOGUE}
    return [known[name] for name in names if name in known]


def _absent(names: Sequence[str], rows: Sequence[Weight]) -> str:
    if not rows:
        return f"no row of the catalogue of weights has the name {' or '.join(names)}"
    return f"not in {rows[0].search_locations}; {rows[0].remedy}"


def _estimators(names: Sequence[str]) -> Availability:
    if SUPPLIED in names:
        return Availability((), None)
    if unknown := [name for name in names if name not in REQUIRED_WEIGHTS]:
        raise SteadyDancerError(
            f"unknown pose estimator {unknown[0]!r}: choose auto, supplied, {', '.join(REQUIRED_WEIGHTS)}"
        )
    rows = {name: _rows(REQUIRED_WEIGHTS[name]) for name in names}
    here = [name for name, parts in rows.items() if all(lookup.find(part) for part in parts)]
    used = tuple(dict.fromkeys(part for name in here or names for part in rows[name]))
    if here:
        return Availability(used, None)
    absent = "; ".join(f"`{row.name}`: {_absent((row.name,), [row])}" for row in used)
    return Availability(used, f"no pose estimator is here, weights {absent}")


def _has_module(module: str) -> bool:
    try:
        return importlib.util.find_spec(f"{PACKAGE}.{module}") is not None
    except ModuleNotFoundError:
        return False


def is_non_commercial(row: Weight) -> bool:
    """Check whether a licence forbids commercial use."""
    licence = row.licence.lower()
    return any(mark in licence for mark in ("-nc", "non-commercial", "noncommercial", "polyform"))


def weights_record(rows: tuple[Weight, ...]) -> dict[str, Any]:
    """Return digest and licence of weights that are on this machine, for the record."""
    record = {}
    for row in rows:
        folder = lookup.find(row)
        if folder is not None:
            record[row.name] = {
                "sha256": _digest(folder, row),
                "licence": row.licence,
                "non_commercial": is_non_commercial(row),
            }
    return record


def _digest(folder: Path, row: Weight) -> str:
    """Return the sha256 of a single file, or over the digests of several."""
    files = row.files or tuple(sorted(file.name for file in folder.iterdir() if file.is_file()))
    digests = [content_digest(folder / name) for name in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
