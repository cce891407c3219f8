"""Bad input, searched for by Hypothesis: any of it works, or is refused with a message.

Some dozens of examples by default, some hundreds with `-m slow`: from one seed, nothing
remembered, so the same on each run, whichever other tests run and wherever these are edited. They
are others where Hypothesis or Python is of another version, or where what there is to draw has
changed: a new key, a new choice of a group. What was found once is a test of its own, or an
`@example`. To search further, by hand:

    SEARCHED_EXAMPLES=5000 python -m pytest -m slow tests/fuzz --hypothesis-seed=1
"""
