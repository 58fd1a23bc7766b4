"""Frozen networks that metrics need, one module each. Import them by path: each loads its own libraries."""
