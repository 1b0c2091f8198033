"""What each operation loses, by family: chains of facts and completions (rules/completion.py).

Only what does not follow from the facts of an inverse stands here. `completion_families` in rules/ lists them.
"""
