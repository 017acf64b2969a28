"""Seeded rounds of faults against everything that `tidemill up` starts: ``python -m tests.chaos.rounds``.

`schedule` draws what happens, `world` makes it happen, `traffic` sends good and bad records meanwhile,
`verdict` compares the books and the learner with what they must be. A seed gives the same schedule
again; how far the processes have come at each step is theirs to decide.
"""
