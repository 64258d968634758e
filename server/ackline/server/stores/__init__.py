"""The server's storage: three seams, and their embedded implementation.

`seams` says what a server needs, `entities` what is kept, `errors` what can go wrong;
`storage` opens a data folder (`folder`) with all of it.

    sessions, runs                                       records only
    chunks     uploads, chunkfile, chunkmap, objects     bytes and records
    logs       eventlog, logappender, logreader, …       bytes; a record each log
    records, *_rows, schema                              SQLite
    files, handles, threads, sync, space                 the file system
"""

from __future__ import annotations
