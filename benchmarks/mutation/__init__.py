"""Faults planted in the modules that decide results: do their tests notice?"""
