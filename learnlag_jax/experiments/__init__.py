"""The walk: real data in, runs, and a report out. May use every room; no room imports it.

cli          the command line: one module of `commands` a command
commands/    report, design, kinematics, compare, audit
chapters/    the report: one file a chapter derives and checks the paper's equations; its parts and figures beside it
comparison/  strict configurations, optimisers and workloads by name, trials, standings
runs/        the training loop, checkpoints, several processes, a live audit
language/    models of text: the pretrained one, those trained here, and what scores them
claims, data, figures, page: the nouns of the report, the real inputs with their hashes, pictures, and the page
"""
