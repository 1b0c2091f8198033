"""What operations make of intervals: values and slopes that are certain, for proofs at planning time.

Numpy only: nothing here is emitted. `enclosure.py` is the arithmetic, `operators.py` says what each operator does.
"""
