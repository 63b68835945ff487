"""Workers: processes of this machine, or actors of a Ray cluster, that draw micro-batches.

    tasks       a micro-batch on its way to a worker and back, and what a worker does with it
    crews       the seam: who takes tasks and reports
    processes   a crew of processes          cluster   a crew of Ray's actors
    dispatch    order, time limits, and a second try elsewhere for what was lost
    drawing     what the engine asks for

The driver alone resolves, splits, writes and ranks. It takes results in the order in which it gave
the tasks, so that a run folder is the same as that of one process.
"""
