"""Pretrained weights: a catalogue with sizes and licences, lookup and download. Does not import torch."""

from .lookup import BLAZEPOSE_FILES, WeightsError, check, fetch, fetch_blazepose, find, find_source, weight

__all__ = ["BLAZEPOSE_FILES", "WeightsError", "check", "fetch", "fetch_blazepose", "find", "find_source", "weight"]
