"""Tests of the method's three claims on a user's own model and data.

A transition is a state of the model (after earlier tasks were trained with their original instructions) and the
task that follows. From that one state the task is trained with every candidate, with several seeds, in one or two
optimiser arms; what the candidates did is compared with what was known of them before.

    plan         which trainings there are
    run          makes them, and appends a record for each
    training     a transition's state, and one training from it
    indicators   what is measured of a candidate before a training and during it
    records      one training in one line
    blocks       trainings arranged: transition x arm, each a full table of candidates x seeds
    resampling   intervals by bootstrap, p-values by permutation
    components   claim 1: how far candidates differ in the task itself, and how far in other tasks
    correlation  claim 2: whether a candidate that is good for one other task is good for the rest
    prediction   claim 3: whether pre-update loss, or another indicator, tells which candidates are good
    decision     what choosing by pre-update loss is worth
    bound        whether the path of the parameters, and what is forgotten, obey the bounds that may explain it
    analysis     all of these from a study's records, and what a figure says of a claim
"""
