"""Bad input, searched for by Hypothesis: any of it works, or is refused with a message.

The same examples each time (derandomised, nothing remembered): some dozens by default, some
hundreds with `-m slow`. To search further, by hand:

    SEARCHED_EXAMPLES=5000 python -m pytest -m slow tests/searched --hypothesis-seed=1
"""
