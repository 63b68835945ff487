"""What the server counts, in the text format that Prometheus reads."""

from bisect import bisect_left
from collections import Counter
from threading import Lock

from ui.service.queue import Job

ENDS = ("done", "failed", "dropped", "refused")
SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # upper bounds of buckets
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of what was done since the start, for callers in many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs = Counter(dict.fromkeys(ENDS, 0))
        self._images = Counter({"drawn": 0, "failed": 0})
        self._buckets = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0

    def count_refused(self) -> None:
        """Count a job that was not let into the queue."""
        with self._lock:
            self._jobs["refused"] += 1

    def count_job(self, job: Job, seconds: float) -> None:
        """Count a job that has ended so many seconds after it was asked for."""
        if job.cancel.stopped or job.future.cancelled():
            end = "dropped"
        else:
            end = "done" if job.future.exception() is None else "failed"
        with self._lock:
            self._jobs[end] += 1
            self._buckets[bisect_left(SECONDS, seconds)] += 1
            self._seconds += seconds

    def count_images(self, drawn: int, failed: int) -> None:
        """Count what came of a job that draws."""
        with self._lock:
            self._images.update(drawn=drawn, failed=failed)

    def text(self, waiting: int, running: int) -> str:
        """Return all of it, with the state of the queue."""
        with self._lock:
            jobs, images = dict(self._jobs), dict(self._images)
            buckets, seconds = list(self._buckets), self._seconds
        lines = [
            *_family("salon_jobs_total", "counter", "Jobs by how they ended."),
            *(f'salon_jobs_total{{end="{end}"}} {jobs[end]}' for end in ENDS),
            *_family("salon_pictures_total", "counter", "Candidates with an image, and without."),
            *(f'salon_pictures_total{{end="{end}"}} {count}' for end, count in images.items()),
            *_family("salon_queue_waiting", "gauge", "Jobs that wait for their turn."),
            f"salon_queue_waiting {waiting}",
            *_family("salon_queue_running", "gauge", "Jobs in the making."),
            f"salon_queue_running {running}",
            *_family("salon_job_seconds", "histogram", "From asking for a job to its end."),
        ]
        total = 0
        for bound, count in zip((*SECONDS, "+Inf"), buckets, strict=True):
            total += count
            lines.append(f'salon_job_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"salon_job_seconds_sum {seconds:.6f}", f"salon_job_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"
