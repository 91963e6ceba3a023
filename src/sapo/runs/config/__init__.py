"""The configuration of a run, a sweep or a study: one validated, frozen value.

Comes in: a YAML file and overrides. Goes out: `Config` or `StudyConfig`, or one message that names all mistakes.
Must not know: what the settings do. Each part is the settings class of the room that uses it; only `runs.prepare` and
`experiments` take the whole.
"""
