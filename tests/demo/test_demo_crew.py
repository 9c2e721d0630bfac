"""The crew: results in order, progress summed, mistakes and Ctrl-C passed on, no process left behind."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from cocoop.demo.crew import Crew, Task
from cocoop.errors import ConfigError, DataError, TrainingError


def square(number, tell):
    for step in range(1, number + 1):
        tell(step)
    return number**2


def threads(tell):
    return torch.get_num_threads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def complain(tell):
    raise DataError("There is no such picture.")


def vanish(tell):
    os.kill(os.getpid(), signal.SIGKILL)


def go_on_for_ever(mark, tell):
    mark.write_text(str(os.getpid()))
    for step in itertools.count():
        tell(step)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def crew():
    with Crew(2) as crew:
        yield crew


def test_results_come_in_the_order_of_the_tasks_and_progress_reaches_its_end(crew):
    numbers, progress, results = [40, 3, 0, 7], [], []
    tasks = [Task(square, (number,), number) for number in numbers]
    said = crew.run(tasks, on_progress=lambda *news: progress.append(news), on_result=results.append)
    assert said == [1600, 9, 0, 49]
    assert sorted(results) == [0, 9, 49, 1600]
    assert {total for _, total in progress} == {50}
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    # News of these tasks may still arrive; it must not be taken for that of the next.
    assert crew.run([Task(square, (2,), 2)], on_progress=lambda *news: progress.append(news)) == [4]
    assert all(done <= 2 for done, total in progress if total == 2)


def test_a_process_has_one_thread_and_leaves_ctrl_c_to_the_main_one(crew):
    assert crew.run([Task(threads, ())]) == [(1, True)]


def test_a_mistake_of_the_user_is_raised_as_it_is(crew):
    with pytest.raises(DataError, match=r"^There is no such picture\.$"):
        crew.run([Task(complain, ()), Task(square, (1,), 1)])
    assert crew.run([Task(square, (5,), 5)]) == [25]


def test_leaving_stops_what_still_runs(tmp_path):
    mark = tmp_path / "process"

    def interrupt(done, total):
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Crew(1) as crew:
        crew.run([Task(go_on_for_ever, (mark,), 1)], on_progress=interrupt)
    process = Path("/proc") / mark.read_text()
    assert not process.exists()


def test_a_process_that_was_killed_is_explained():
    explained = r"was killed, which happens when memory runs out; try --processes 1\.$"
    with pytest.raises(TrainingError, match=explained), Crew(1) as crew:
        crew.run([Task(vanish, ())])


def test_a_crew_of_none_is_refused():
    with pytest.raises(ConfigError, match=r"^--processes is 0; it must be at least 1\.$"):
        Crew(0)
