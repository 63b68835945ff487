import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gen.errors import RoomError
from gen.turns import Turns
from ui.service import queue
from ui.service.queue import FatalJobError, Job, Queue, QueueFullError, StoppingError

PATIENCE = 30


@pytest.fixture
def waiting_queue(tmp_path: Path) -> Iterator[tuple[Queue, threading.Event]]:
    """A queue that is busy with a job until the event is set."""
    jobs, go = Queue(tmp_path / "queue.json"), threading.Event()
    began = threading.Event()

    def hold(_: Job) -> None:
        began.set()
        assert go.wait(PATIENCE)

    jobs.submit(Job("first", hold))
    assert began.wait(PATIENCE)
    yield jobs, go
    go.set()
    jobs.stop()


@pytest.mark.fault("a client with very many jobs")
def test_a_client_with_many_jobs_does_not_starve_one_with_few(waiting_queue) -> None:
    jobs, go = waiting_queue
    order: list[str] = []
    many = [Job("many", lambda job: order.append(job.client)) for _ in range(50)]
    few = [Job("few", lambda job: order.append(job.client)) for _ in range(2)]
    for job in many + few:
        jobs.submit(job)
    assert len(jobs) == 52
    go.set()
    for job in many + few:
        job.future.result(PATIENCE)
    assert order[:4] == ["many", "few", "many", "few"]
    assert order[4:] == ["many"] * 48


@pytest.mark.fault("a client with very many jobs")
def test_it_is_bounded_for_all_and_for_each(waiting_queue, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, _ = waiting_queue
    monkeypatch.setattr(queue, "WAITING", 5)
    monkeypatch.setattr(queue, "WAITING_PER_CLIENT", 3)
    for _ in range(3):
        jobs.submit(Job("a", lambda _: None))
    with pytest.raises(QueueFullError) as full:
        jobs.submit(Job("a", lambda _: None))
    assert 1 <= full.value.retry_after <= queue.RETRY_AFTER
    for client in "bc":
        jobs.submit(Job(client, lambda _: None))
    with pytest.raises(QueueFullError, match="try again in"):
        jobs.submit(Job("d", lambda _: None))


def test_a_dropped_job_is_not_begun_and_makes_room(waiting_queue) -> None:
    jobs, go = waiting_queue
    done: list[str] = []
    dropped, kept = Job("a", lambda _: done.append("dropped")), Job("a", lambda _: done.append("k"))
    jobs.submit(dropped)
    jobs.submit(kept)
    jobs.drop(dropped)
    assert len(jobs) == 1
    assert dropped.future.cancelled()
    go.set()
    kept.future.result(PATIENCE)
    assert done == ["k"]


def test_a_running_job_that_is_dropped_is_told_to_stop(tmp_path: Path) -> None:
    jobs, began = Queue(tmp_path / "queue.json"), threading.Event()

    def work(job: Job) -> None:
        began.set()
        while not job.cancel.stopped:
            threading.Event().wait(0.001)

    job = Job("a", work)
    jobs.submit(job)
    assert began.wait(PATIENCE)
    jobs.drop(job)
    job.future.result(PATIENCE)
    jobs.stop()


def test_an_error_fails_its_job_and_the_next_one_runs(tmp_path: Path) -> None:
    jobs = Queue(tmp_path / "queue.json")

    def work(_: Job) -> None:
        raise RoomError("not enough memory")

    bad, good = Job("a", work, key="bad"), Job("a", lambda _: 7, key="good")
    jobs.submit(bad)
    jobs.submit(good)
    with pytest.raises(RoomError):
        bad.future.result(PATIENCE)
    assert good.future.result(PATIENCE) == 7
    jobs.stop()
    assert json.loads((tmp_path / "queue.json").read_text()) == {}


def test_stopping_finishes_the_running_job_and_refuses_the_others(tmp_path: Path) -> None:
    jobs, began = Queue(tmp_path / "queue.json"), threading.Event()

    def work(job: Job) -> str:
        began.set()
        while not job.cancel.finishing:
            threading.Event().wait(0.001)
        return "saved"

    running, waiting = Job("a", work), Job("a", lambda _: None)
    jobs.submit(running)
    jobs.submit(waiting)
    assert began.wait(PATIENCE)
    jobs.stop()
    assert running.future.result(0) == "saved"
    with pytest.raises(StoppingError):
        waiting.future.result(0)
    with pytest.raises(StoppingError):
        jobs.submit(Job("a", lambda _: None))


def test_jobs_that_pass_on_their_turn_are_done_at_once_and_never_run_together(
    tmp_path: Path,
) -> None:
    turns, inside, met = Turns(), threading.Lock(), threading.Barrier(2)
    jobs = Queue(tmp_path / "queue.json", 2, turns)

    def work(job: Job) -> str:
        for _ in range(50):
            assert inside.acquire(blocking=False), "two at once"
            inside.release()
            turns.pass_on()
        turns.__exit__()  # as one that waits for the other, whose turn it is meanwhile
        met.wait(PATIENCE)
        turns.__enter__()
        return job.client

    both = [Job(client, work, key=client) for client in "ab"]
    late = Job("c", lambda _: "c")
    for job in (*both, late):
        jobs.submit(job)
    assert [job.future.result(PATIENCE) for job in (*both, late)] == ["a", "b", "c"]
    jobs.stop()


def test_the_journal_knows_all_jobs_in_the_making(tmp_path: Path) -> None:
    turns, both, go = Turns(), threading.Barrier(3), threading.Event()
    jobs = Queue(tmp_path / "queue.json", 2, turns)

    def work(_: Job) -> None:
        turns.__exit__()
        both.wait(PATIENCE)
        go.wait(PATIENCE)
        turns.__enter__()

    waiting = [Job(client, work, key=client) for client in "ab"]
    for job in waiting:
        jobs.submit(job)
    both.wait(PATIENCE)
    assert json.loads((tmp_path / "queue.json").read_text()) == {"a": 1, "b": 1}
    assert jobs.running == tuple(waiting)
    third = Job("c", lambda _: None)
    jobs.submit(third)
    assert jobs.ahead_of(third) == 2
    go.set()
    for job in (*waiting, third):
        job.future.result(PATIENCE)
    assert json.loads((tmp_path / "queue.json").read_text()) == {}
    jobs.stop()


@pytest.mark.fault("a job that ends the process")
def test_a_job_that_kills_the_process_does_so_twice_at_most(tmp_path: Path) -> None:
    def killed() -> bool:
        """Whether a process of its own, in which the job is asked for, is killed by it."""
        child = os.fork()
        if child == 0:
            jobs = Queue(tmp_path / "queue.json")
            try:
                jobs.submit(Job("a", lambda _: os._exit(9), key="poison"))
            except FatalJobError:
                good = Job("a", lambda _: None, key="good")
                jobs.submit(good)
                good.future.result(PATIENCE)
                os._exit(0)
            threading.Event().wait(PATIENCE)
            os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    assert [killed() for _ in range(4)] == [True, True, False, False]
    assert json.loads((tmp_path / "queue.json").read_text()) == {"poison": 2}


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", 0),
        ("[]", 0),
        ("{", 0),
        ("\0", 0),
        (DEEP, 0),
        ('{"a": ' + DEEP, 0),
        ('{"poison": "many"}', 0),
        ('{"poison": true, "a": 1}', 1),
        ('{"poison": -1, "a": 1, "b": 2}', 2),
        ('{"poison": 1e99}', 0),
        ('{"poison": ' + "9" * 5000 + "}", 0),
        (json.dumps({"x" * 100: 1}), 0),
        (json.dumps({f"{i:032}": 1 for i in range(50_000)}), 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_journal_that_somebody_edited(text: str, kept: int, tmp_path: Path) -> None:
    (tmp_path / "queue.json").write_text(text)
    jobs = Queue(tmp_path / "queue.json")
    assert jobs.note is not None
    assert f"{kept} entries are used" in jobs.note
    assert (tmp_path / "queue.json.damaged").read_text() == text
    job = Job("a", lambda _: 7, key="poison")
    jobs.submit(job)
    assert job.future.result(PATIENCE) == 7
    jobs.stop()
    assert Queue(tmp_path / "queue.json").note is None  # said once


def test_a_journal_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        jobs = Queue(tmp_path / name)
        assert "not a file" in (jobs.note or "")
        jobs.stop()
    assert Queue(tmp_path / "nothing").note is None


def test_a_step_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    jobs, began, go = Queue(tmp_path / "queue.json"), threading.Event(), threading.Event()
    job = Job("a", lambda _: began.set() or go.wait(PATIENCE))
    jobs.submit(job)
    assert began.wait(PATIENCE)
    assert jobs.stop(0.05) is False
    go.set()
    assert jobs.stop(PATIENCE) is True


@pytest.mark.fault("a full disk")
def test_a_full_disk_refuses_jobs_and_keeps_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Queue(tmp_path / "queue.json")

    def fill(path: Path, data: bytes) -> None:
        raise RoomError("no space left")

    made = Job("a", lambda _: monkeypatch.setattr(queue, "write", fill) or 7, key="made")
    jobs.submit(made)
    assert made.future.result(PATIENCE) == 7
    refused = Job("a", lambda _: 7, key="another")
    jobs.submit(refused)
    with pytest.raises(RoomError):
        refused.future.result(PATIENCE)
    monkeypatch.undo()
    again = Job("a", lambda _: 7, key="another")
    jobs.submit(again)
    assert again.future.result(PATIENCE) == 7
    jobs.stop()
    assert json.loads((tmp_path / "queue.json").read_text()) == {}
