"""Many runs: sweeps, and studies that test the method's claims.

Comes in: one configuration for many trainings. Goes out: one record for each. `where` says what makes them: this
process, others of this machine, or a Ray cluster.
Must not know: how a run is made; it calls `sapo.sequence`.
"""
