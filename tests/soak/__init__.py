"""A mixed load with random faults, and an account at the end: `make soak`.

    python -m tests.soak --seconds 1800 --seed 7

```
__main__ ── Server on a small disk ── Links ── Workers (processes)
   │             kill, drain, fill     cut, stall, …    kill
   └── Account: the workers' journals, what the server has, what it took to run
```

A worker writes into its journal what it has begun and how that ended, and goes on where
it was when it is killed and started again. At the end all journals together have to
say: sent = stored + refused, and produced = received + merged + dropped + trimmed; the
server's memory and open files have to be flat, and every byte on its disk right.
"""
