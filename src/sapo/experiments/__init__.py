"""Many runs: sweeps, and studies that test the method's claims.

Comes in: one configuration for many trainings. Goes out: one record for each.
Must not know: how a run is made; it calls `sapo.sequence`.
"""
