"""Coverage-guided fuzzing of the protocol's cores: `make fuzz`.

    python -m tests.fuzz --seconds 600 server

```
corpus/TARGET.txt ── scripts ── targets ── cores of ackline.proto
   (a script a line)    │          └── invariants: see `targets`
                        └── frames with right checksums, from bytes that are not
```

libFuzzer (atheris) changes scripts and keeps those that reach new code. What it finds
joins the corpus, which `make test` plays in full; a script that breaks an invariant is
printed, and belongs into the corpus once that is mended.
"""
