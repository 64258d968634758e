"""A seeded simulator of crashes of the embedded store.

`python -m tests.crash --seconds 600` looks for a fault until the time is over. A fault
is told with the seed that finds it again.

disk        what was written, what was synced, and what a crash may leave of it
watching    the stores' file-system seam, and SQLite's, on such a disk
stepping    threads that are none: what runs in them comes in a seeded order
facts       what clients were told, and what they asked for without an answer
workload    random operations on real stores, which make facts; what they are is in
            operations, object_operations, log_operations, record_operations
inspection  whether a store that was opened after a crash keeps to the facts
simulation  all of it together, for one seed
"""
