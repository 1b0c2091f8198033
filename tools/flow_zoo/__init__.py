"""Normalizing flows of several libraries, made small, trained briefly, and handed to exporters.

One module a library says which flows; `flow.py` says what a flow is here; `training.py` gives it parameters that are
not those of an identity; `exporting.py` writes it. Nothing here is imported by the package or by its tests.
"""
