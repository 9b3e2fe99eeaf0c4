from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.needs import ON_LINUX
from tests.unit.faulty_worker import CountBytes
from tests.unit.video_files import SIZE, frame_numbers, write_audio, write_prefix, write_video
from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.errors import ConfigError, DecodeError, StageError
from vlmvid.types import FrameBatch
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.isolation.dispatch import WAITING_PER_WORKER
from vlmvid.video.isolation.pool import DecodePool, shared_pool
from vlmvid.video.isolation.protocol import FrameMemory, open_frame_memory
from vlmvid.video.options import ClipJob, DecodeLimits

ROOT = Path(__file__).parents[2]
CONFIG = DecodeConfig(sampling=SamplingConfig(num_frames=4), image_size=32)
LIMITS = DecodeLimits(seconds=120, memory_bytes=2**30)
FAULTY = (sys.executable, "-m", "tests.unit.faulty_worker")

pytestmark = ON_LINUX


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("isolation") / "video.mp4")


@pytest.fixture
def make_pool() -> Iterator[Callable[..., DecodePool]]:
    pools: list[DecodePool] = []

    def make(num_workers: int, *, limits: DecodeLimits = LIMITS, command: tuple[str, ...] = FAULTY) -> DecodePool:
        pools.append(DecodePool(CONFIG, limits, num_workers=num_workers, worker_command=command))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
        assert pool.worker_pids() == []


def jobs(*names: object) -> list[ClipJob]:
    return [ClipJob(str(name)) for name in names]


def outcome_of(outcome: FrameBatch | DecodeError) -> tuple[object, ...]:
    """All that an outcome says, comparable."""
    if isinstance(outcome, DecodeError):
        return str(outcome), outcome.reason_code, outcome.transient
    frames = outcome.frames
    return frames.tobytes(), frames.shape, frames.strides, frames.dtype, outcome.pts_seconds.tobytes()


def values(outcome: FrameBatch | DecodeError) -> list[float]:
    assert isinstance(outcome, FrameBatch), outcome
    return outcome.pts_seconds.tolist()


def error_of(outcome: FrameBatch | DecodeError) -> DecodeError:
    assert isinstance(outcome, DecodeError), outcome
    return outcome


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between open and read
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def run_script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


SCRIPT = """
import os, signal, sys, threading, time
from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.video.isolation.pool import DecodePool, shared_pool
from vlmvid.video.options import ClipJob, DecodeLimits
config, limits = DecodeConfig(sampling=SamplingConfig(num_frames=4), image_size=32), DecodeLimits()
faulty = (sys.executable, "-m", "tests.unit.faulty_worker")
"""


def test_outcomes_are_those_of_decode_clip(video: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"n\xff\nname .mp4")
    odd.write_bytes(video.read_bytes())
    turned = write_video(tmp_path / "turned.mp4", rotation=90)
    cut = write_prefix(video, tmp_path / "cut.mp4", 0.6)
    sound = write_audio(tmp_path / "sound.mp4")
    todo = [
        ClipJob(str(video)), ClipJob(str(video), 0.5, 1.25, identity="x"), ClipJob(str(video), 99.0),
        *jobs(odd, turned, cut, sound, tmp_path / "missing.mp4", tmp_path),
    ]  # fmt: skip
    expected = []
    for job in todo:
        try:
            expected.append(outcome_of(decode_clip(job, CONFIG)))
        except DecodeError as error:
            expected.append(outcome_of(error))
    assert sum(len(outcome) == 3 for outcome in expected) == 5
    for num_workers in (0, 1, 2):
        with DecodePool(CONFIG, LIMITS, num_workers=num_workers) as pool:
            assert [outcome_of(outcome) for outcome in pool.decode(todo)] == expected
            assert list(pool.decode([])) == []


def test_each_fault_costs_its_own_row(make_pool: Callable[..., DecodePool], video: Path) -> None:
    expected = {
        "segfault:": ("crashed", False, "SIGSEGV"),
        "abort:tcache corrupted": ("crashed", False, "SIGABRT; its last words: 'tcache corrupted'"),
        "abort:  what():  std::bad_alloc": ("memory_limit", False, "std::bad_alloc"),
        "leave:3": ("crashed", False, "exit status 3"),
        "killed:SIGKILL": ("crashed", True, "died of SIGKILL, sent from outside"),
        "allocate:100": ("memory_limit", False, "limit of 256 MiB"),
        "fill:": ("memory_limit", False, "raise the limit"),
        "raise:hidden_memory": ("memory_limit", False, "limit of 256 MiB"),
        "raise:decode": ("strange_reason", True, "a \udcff name\nlong "),
        "raise:storage": ("read_error", True, "Input/output error"),
        "raise:bug": ("internal_error", False, "KeyError: 'a bug' (at faulty_worker.py:"),
        "nonsense:": ("crashed", False, "sent nonsense"),
    }
    pool = make_pool(2, limits=DecodeLimits(seconds=120, memory_bytes=256 * 2**20))
    names = [name for fault in expected for name in (fault, str(video))]
    sound = outcome_of(decode_clip(ClipJob(str(video)), CONFIG))
    for name, outcome in zip(names, pool.decode(jobs(*names)), strict=True):
        if name == str(video):
            assert outcome_of(outcome) == sound
        else:
            error = error_of(outcome)
            reason_code, is_transient, words = expected[name]
            assert (error.reason_code, error.transient) == (reason_code, is_transient), name
            assert words in str(error)
            assert name in str(error) or reason_code == "strange_reason"
    assert [values(outcome) for outcome in pool.decode(jobs("c_malloc:"))] == [[0, 0, 1]]


def test_a_hang_costs_its_time_and_its_row(make_pool: Callable[..., DecodePool], video: Path) -> None:
    pool = make_pool(2, limits=DecodeLimits(seconds=4))
    list(pool.decode(jobs(video, video, video)))
    start = time.monotonic()
    hung, *others = pool.decode(jobs("hang:", *[video] * 6))
    assert 4 <= time.monotonic() - start < 60
    assert (error_of(hung).reason_code, error_of(hung).transient) == ("timeout", False)
    assert "limit of 4 s" in str(hung)
    assert all(isinstance(other, FrameBatch) for other in others)


def test_a_clip_within_its_time_is_not_stopped_for_a_slow_consumer(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1, limits=DecodeLimits(seconds=3))
    outcomes = pool.decode(jobs(*["slow:0.1"] * 4))
    next(outcomes)
    time.sleep(3.5)
    assert [values(outcome) for outcome in outcomes] == [[0.1]] * 3


def test_a_stopped_worker_is_a_timeout(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1, limits=DecodeLimits(seconds=3))
    ready, slow, after = pool.decode(jobs("slow:0", "killed:SIGSTOP", "slow:0"))
    assert error_of(slow).reason_code == "timeout"
    assert values(ready) == values(after) == [0]


def test_time_in_which_the_whole_machine_stands_still_is_not_counted() -> None:
    code = (
        SCRIPT
        + """
with DecodePool(config, DecodeLimits(seconds=5), num_workers=1, worker_command=faulty) as pool:
    outcomes = pool.decode([ClipJob("slow:0"), ClipJob("work:1")])
    next(outcomes)
    print(*pool.worker_pids(), flush=True)
    print(next(outcomes))
"""
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()), parent.pid]
        time.sleep(0.2)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5.5)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert parent.stdout.readline().startswith("FrameBatch(T=1")


def test_a_worker_killed_at_work_costs_one_row_that_may_be_tried_again(
    make_pool: Callable[..., DecodePool], tmp_path: Path
) -> None:
    pool = make_pool(1)
    mark = tmp_path / "mark"
    outcomes = pool.decode(jobs("slow:0", f"started:{mark}".replace("/", "|"), "slow:60", "slow:0"))
    next(outcomes)
    next(outcomes)
    wait_until(mark.exists)
    time.sleep(0.3)  # the slow clip has begun
    os.kill(pool.worker_pids()[0], signal.SIGKILL)
    killed, after = outcomes
    assert (error_of(killed).reason_code, error_of(killed).transient) == ("crashed", True)
    assert values(after) == [0]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP", "SIGSEGV"])
def test_a_worker_lost_while_idle_costs_nothing(
    name: str, make_pool: Callable[..., DecodePool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1, limits=DecodeLimits(seconds=3))
    list(pool.decode(jobs("slow:0")))
    (pid,) = pool.worker_pids()
    os.kill(pid, signal.Signals[name])
    if name != "SIGSTOP":
        wait_until(lambda: pid not in pool.worker_pids())
    assert [values(outcome) for outcome in pool.decode(jobs("slow:0", "slow:0.1"))] == [[0], [0.1]]
    assert pid not in pool.worker_pids()
    assert caplog.records[0].levelno == logging.WARNING


def test_a_crash_is_blamed_on_a_clip_only_if_it_crashes_a_fresh_worker(
    make_pool: Callable[..., DecodePool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    fine, innocent, guilty, after = pool.decode(jobs("slow:0", "worn:", "segfault:", "slow:0"))
    assert values(fine) == values(after) == [0]
    assert values(innocent) == [1]
    assert error_of(guilty).reason_code == "crashed"
    assert [record.message.partition(":")[0] for record in caplog.records] == ["worn", "segfault"]
    assert all("a fresh worker tries it once more" in record.message for record in caplog.records)


def test_memory_that_clips_leave_behind_ends_the_worker(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1, limits=DecodeLimits(memory_bytes=256 * 2**20))
    pids = [values(outcome)[0] for outcome in [*pool.decode(jobs(*["leak:30", "process:"] * 6))][1::2]]
    assert len(set(pids[:2])) == 1 and len(set(pids)) == 3  # ended when more than 64 of 256 MiB are gone


def test_workers_are_light_and_protected(make_pool: Callable[..., DecodePool]) -> None:
    modules, process, chatter = make_pool(1).decode(jobs("modules:", "process:", "chatter:5000"))
    assert not any(values(modules))
    pid, num_threads, ignores_interrupt, core_bytes, has_one_blas_thread = values(process)
    assert pid != os.getpid()
    assert (num_threads, ignores_interrupt, core_bytes, has_one_blas_thread) == (1, 1, 0, 1)
    assert values(chatter) == [1, 1]


@pytest.mark.parametrize(("num_workers", "num_jobs", "num_threads"), [(6, 1, 6), (5, 2, 2), (2, 2, 1), (1, 5, 1)])
def test_few_clips_get_many_threads(
    num_workers: int, num_jobs: int, num_threads: int, make_pool: Callable[..., DecodePool]
) -> None:
    pool = make_pool(num_workers)
    assert {values(outcome)[1] for outcome in pool.decode(jobs(*["process:"] * num_jobs))} == {num_threads}
    assert len(pool.worker_pids()) == min(num_workers, num_jobs)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_frame_above_the_pixel_limit_is_refused(num_workers: int, video: Path) -> None:
    height, width = SIZE
    for max_frame_pixels, is_allowed in ((height * width, True), (height * width - 1, False)):
        with DecodePool(CONFIG, DecodeLimits(max_frame_pixels=max_frame_pixels), num_workers=num_workers) as pool:
            (outcome,) = pool.decode(jobs(video))
        assert isinstance(outcome, FrameBatch) if is_allowed else error_of(outcome).reason_code == "frame_too_large"


def test_a_file_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.mov"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = 2160, 3840, "yuvj420p"
        for level in (50, 100):
            picture = np.full((2160, 3840, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for memory_bytes, is_enough in ((8 * 2**20, False), (2**30, True)):
        with DecodePool(CONFIG, DecodeLimits(memory_bytes=memory_bytes), num_workers=1) as pool:
            (outcome,) = pool.decode(jobs(path))
        assert isinstance(outcome, FrameBatch) if is_enough else error_of(outcome).reason_code == "memory_limit"


def test_a_worker_takes_no_module_from_the_folder_it_is_started_in(tmp_path: Path, video: Path) -> None:
    for name in ("av", "numpy", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    code = SCRIPT + "print(next(DecodePool(config, limits, num_workers=1).decode([ClipJob(sys.argv[1])])))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(video)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("FrameBatch("), done.stderr


def test_order_is_kept_whatever_the_clips_take(make_pool: Callable[..., DecodePool]) -> None:
    waits = np.random.default_rng(0).choice([0.0, 0.003, 0.02], size=60).tolist()
    assert [values(outcome)[0] for outcome in make_pool(3).decode(jobs(*[f"slow:{w}" for w in waits]))] == waits


def test_a_slow_consumer_stops_the_workers(make_pool: Callable[..., DecodePool], tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    name = f"started:{marks}".replace("/", "|")
    num_workers = 2
    outcomes = make_pool(num_workers).decode(jobs(*[name] * 40))
    num_taken = 0
    for more in (1, 1, 8):
        num_taken += len(list(itertools.islice(outcomes, more)))
        most = num_taken + WAITING_PER_WORKER * num_workers
        wait_until(lambda most=most: marks.stat().st_size >= most)  # type: ignore[misc]
        time.sleep(0.2)
        assert marks.stat().st_size == most
    assert len(list(outcomes)) == 30
    assert marks.stat().st_size == 40


def test_frames_of_any_size_and_number_travel(make_pool: Callable[..., DecodePool]) -> None:
    counts = [3, 0, 1, 20_000, 2, 40_000]
    for count, outcome in zip(counts, make_pool(1).decode(jobs(*[f"big:{c}" for c in counts])), strict=True):
        assert isinstance(outcome, FrameBatch)
        assert outcome.frames.shape == (count, 3, 8, 8)
        assert (outcome.frames == count % 251).all()
        assert outcome.pts_seconds.tolist() == list(range(count))
        assert outcome.frames.flags.writeable


def test_a_config_error_is_raised_where_it_stands(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(2)
    outcomes = pool.decode(jobs("slow:0", "raise:config", "slow:0"))
    assert values(next(outcomes)) == [0]
    with pytest.raises(ConfigError, match="image_size=\udcfe is wrong"):
        next(outcomes)
    assert values(*pool.decode(jobs("slow:0"))) == [0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_bounds_are_a_config_error_with_and_without_workers(num_workers: int, video: Path) -> None:
    with DecodePool(CONFIG, LIMITS, num_workers=num_workers) as pool, pytest.raises(ConfigError, match="clip bounds"):
        list(pool.decode([ClipJob(str(video), 2.0, 1.0)]))


def test_closing_the_iterator_early_ends_its_work_only(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(2)
    other = pool.decode(jobs("slow:0", "slow:0.5", "slow:0"))
    assert values(next(other)) == [0]
    outcomes = pool.decode(jobs("slow:0", "slow:60", "slow:60", "slow:60"))
    assert values(next(outcomes)) == [0]
    outcomes.close()
    start = time.monotonic()
    assert [values(outcome) for outcome in other] == [[0.5], [0]]
    assert [values(outcome) for outcome in pool.decode(jobs("slow:0", "slow:0.1"))] == [[0], [0.1]]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", ["hang:", "killed:SIGSTOP"])
def test_closing_from_another_thread_frees_the_one_that_waits(name: str, make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(2)
    other = pool.decode(jobs("slow:0", "slow:3"))
    assert values(next(other)) == [0]
    outcomes = pool.decode(jobs("slow:0", name, "slow:0"))
    assert values(next(outcomes)) == [0]
    closer = threading.Timer(0.5, outcomes.close)
    closer.start()
    start = time.monotonic()
    assert list(outcomes) == []
    assert 0.4 < time.monotonic() - start < 10
    closer.join()
    outcomes.close()
    assert next(outcomes, None) is None
    assert [values(outcome) for outcome in other] == [[3]]
    assert [values(outcome) for outcome in pool.decode(jobs("slow:0", "slow:0.1"))] == [[0], [0.1]]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("num_workers", [0, 1])
def test_closed_outcomes_are_over(num_workers: int, video: Path) -> None:
    with DecodePool(CONFIG, LIMITS, num_workers=num_workers) as pool:
        unused = pool.decode(jobs(video))
        unused.close()
        assert list(unused) == [] and pool.worker_pids() == []
        begun = pool.decode(jobs(video, video))
        assert isinstance(next(begun), FrameBatch)
        begun.close()
        assert list(begun) == []
        assert len(list(pool.decode(jobs(video)))) == 1


def test_forgotten_outcomes_end_their_work(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1)
    outcomes = pool.decode(jobs("process:", "hang:"))
    pid = int(values(next(outcomes))[0])
    del outcomes
    gc.collect()
    wait_until(lambda: not is_alive(pid), seconds=20)


def test_threads_share_the_workers(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(2)
    idle = pool.decode(jobs(*["slow:0"] * 20))  # its consumer takes one and leaves it at that
    next(idle)

    def decode(thread: int) -> list[float]:
        return [values(outcome)[0] for outcome in pool.decode(jobs(*[f"slow:0.00{thread}"] * 10))]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(decode, range(1, 5))) == [[thread / 1000] * 10 for thread in range(1, 5)]
    assert len(pool.worker_pids()) == 2
    assert len(list(idle)) == 19


def test_workers_outlive_the_thread_that_first_used_them(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1)
    thread = threading.Thread(target=lambda: list(pool.decode(jobs("slow:0"))))
    thread.start()
    thread.join()
    pids = pool.worker_pids()
    time.sleep(0.3)
    assert values(*pool.decode(jobs("process:")))[0] == pids[0]
    assert pool.worker_pids() == pids


def test_a_worker_that_does_not_start_is_an_error_after_a_few_tries(
    make_pool: Callable[..., DecodePool], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    broken = f"open({str(count)!r}, 'a').write('x'); raise SystemExit('numpy is broken')"
    pool = make_pool(1, command=(sys.executable, "-c", broken))
    for starts in (3, 6):
        with pytest.raises(StageError, match=r"do not start \(.*exit status 1; numpy is broken; .*num_workers=0"):
            list(pool.decode(jobs("slow:0")))
        assert count.stat().st_size == starts
    with pytest.raises(StageError, match="No such file or directory"):
        list(make_pool(1, command=("/nonexistent/python",)).decode(jobs("slow:0")))


def test_a_start_that_fails_now_and_then_goes_unnoticed(make_pool: Callable[..., DecodePool], tmp_path: Path) -> None:
    count = tmp_path / "count"
    flaky = f"""
import os, runpy
open({str(count)!r}, "a").write("x")
if os.path.getsize({str(count)!r}) < 3:
    raise SystemExit(1)
runpy.run_module("tests.unit.faulty_worker", run_name="__main__")
"""
    pool = make_pool(1, command=(sys.executable, "-c", flaky))
    assert [values(outcome) for outcome in pool.decode(jobs("slow:0"))] == [[0]]
    assert count.stat().st_size == 3


def test_a_clip_that_no_worker_begins_is_given_up_after_two(
    make_pool: Callable[..., DecodePool], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    short_lived = f"""
import os
open({str(count)!r}, "a").write("x")
os.read(0, 65536)
os.write(1, b'{{"kind": "ready"}}\\n')
os.read(0, 65536)
os._exit(5)
"""
    (outcome,) = make_pool(1, command=(sys.executable, "-c", short_lived)).decode(jobs("slow:0"))
    assert error_of(outcome).reason_code == "crashed"
    assert "exit status 5" in str(outcome)
    assert count.stat().st_size == 2


def test_a_closed_pool_says_so(make_pool: Callable[..., DecodePool]) -> None:
    pool = make_pool(1)
    outcomes = pool.decode(jobs("slow:0", "slow:60"))
    next(outcomes)
    threading.Timer(0.3, pool.close).start()
    with pytest.raises(StageError, match="closed while it decoded"):
        next(outcomes)
    with pytest.raises(ConfigError, match="is closed"):
        list(pool.decode(jobs("slow:0")))


@pytest.mark.parametrize(
    ("limits", "num_workers", "words"),
    [
        (LIMITS, -1, "num_workers=-1"),
        (DecodeLimits(seconds=0), 1, "seconds=0"),
        (DecodeLimits(seconds=float("nan")), 1, "seconds=nan"),
        (DecodeLimits(memory_bytes=0), 1, "memory_bytes=0"),
    ],
)
def test_impossible_numbers_are_config_errors(limits: DecodeLimits, num_workers: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodePool(CONFIG, limits, num_workers=num_workers)


def test_no_time_limit_is_a_limit(video: Path) -> None:
    with DecodePool(CONFIG, DecodeLimits(seconds=float("inf")), num_workers=1) as pool:
        assert isinstance(next(pool.decode(jobs(video))), FrameBatch)


def test_a_forgotten_pool_ends_its_workers(video: Path) -> None:
    pool = DecodePool(CONFIG, LIMITS, num_workers=1)
    list(pool.decode(jobs(video)))
    (pid,) = pool.worker_pids()
    del pool
    gc.collect()
    wait_until(lambda: not is_alive(pid))


def test_the_shared_pool_stays_until_its_arguments_change(video: Path) -> None:
    pool = shared_pool(CONFIG, LIMITS, 1)
    list(pool.decode(jobs(video)))
    pids = pool.worker_pids()
    assert shared_pool(CONFIG.model_copy(), DecodeLimits(seconds=120, memory_bytes=2**30), 1) is pool
    other = shared_pool(CONFIG, LIMITS, 2)
    assert other is not pool
    assert len(list(pool.decode(jobs(video)))) == 1  # whoever has it may finish with it
    assert pool.worker_pids() == pids
    other.close()
    assert shared_pool(CONFIG, LIMITS, 2) is not other
    shared_pool(CONFIG, LIMITS, 2).close()
    pool.close()


def test_the_shared_pool_in_a_forked_copy_and_at_the_end(video: Path) -> None:
    done = run_script(
        SCRIPT
        + """
pool = shared_pool(config, limits, 1)
job = ClipJob(sys.argv[1])
next(pool.decode([job]))
parents = pool.worker_pids()
child = os.fork()
if not child:
    own = shared_pool(config, limits, 1)
    next(own.decode([job])), next(pool.decode([job]))
    pids = own.worker_pids() + pool.worker_pids()
    pool.close(), own.close()
    os._exit(7 if len(set(pids) | set(parents)) == 3 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
next(shared_pool(config, limits, 1).decode([job]))
assert shared_pool(config, limits, 1).worker_pids() == parents
print(*parents)
""",
        video,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_alive(int(done.stdout))


@pytest.mark.parametrize("how", ["one process", "its group"])
def test_an_interrupt_leaves_no_worker(how: str) -> None:
    code = (
        SCRIPT
        + """
with DecodePool(config, limits, num_workers=2, worker_command=faulty) as pool:
    for outcome in pool.decode([ClipJob(name) for name in ("slow:0", "slow:0", "hang:", "hang:")]):
        print(*pool.worker_pids(), flush=True)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        parent.stdout.readline()
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.3)
        assert all(map(is_alive, pids)) and pids
        if how == "its group":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGINT)
        wait_until(lambda: parent.poll() is not None)
        assert parent.returncode == -signal.SIGINT
        assert parent.stderr.read().count("KeyboardInterrupt") == 1
        assert not any(map(is_alive, pids))


def test_a_killed_parent_takes_its_workers_along() -> None:
    code = (
        SCRIPT
        + """
pools = [DecodePool(config, limits, num_workers=1, worker_command=faulty) for _ in range(3)]
for pool in pools:
    next(pool.decode([ClipJob("slow:0")]))
pids = [pid for pool in pools for pid in pool.worker_pids()]
for pool, name in zip(pools, ("hang:", "killed:SIGSTOP")):
    threading.Thread(target=next, args=(pool.decode([ClipJob(name)]),), daemon=True).start()
time.sleep(0.5)
print(*pids, flush=True)
time.sleep(600)
"""
    )
    shared_before = sorted(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3 and all(map(is_alive, pids))
        parent.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert sorted(os.listdir("/dev/shm")) == shared_before


def test_300_clips_leave_nothing_behind(video: Path) -> None:
    with DecodePool(CONFIG, LIMITS, num_workers=2, worker_command=FAULTY) as pool:
        seen: set[float] = set()
        while len(seen) < 2:  # one may start late
            seen |= {values(outcome)[0] for outcome in pool.decode(jobs("process:", "process:"))}
        assert len(list(pool.decode(jobs(*[video] * 40)))) == 40
        pids = pool.worker_pids()

        def state() -> tuple[list[int], list[int]]:
            processes = ["self", *pids]
            return [num_descriptors(pid) for pid in processes], [resident_bytes(pid) for pid in processes]

        descriptors, resident = state()
        for outcome in pool.decode(jobs(*[video] * 300)):
            assert frame_numbers(outcome.frames) == [6, 18, 30, 42]  # type: ignore[union-attr]
        assert pool.worker_pids() == pids
        descriptors_after, resident_after = state()
        assert descriptors_after == descriptors
        assert all(after - before < 8 * 2**20 for before, after in zip(resident, resident_after, strict=True))
    before = num_descriptors()
    for _ in range(3):
        with DecodePool(CONFIG, LIMITS, num_workers=1, worker_command=FAULTY) as pool:
            list(pool.decode(jobs("leave:1", "slow:0")))
    assert num_descriptors() == before


@pytest.mark.long
def test_memory_stays_flat_over_2000_clips(tmp_path: Path) -> None:
    videos = [
        write_video(tmp_path / "h264.mp4"),
        write_video(tmp_path / "vp9.webm", codec="libvpx-vp9", codec_options={}),
        write_video(tmp_path / "mpeg4.avi", codec="mpeg4", codec_options={}),
        write_prefix(write_video(tmp_path / "whole.mkv"), tmp_path / "cut.mkv", 0.5),
    ]
    config = DecodeConfig(sampling=SamplingConfig(num_frames=16), image_size=224)
    num_clips, every = 2000, 50
    with DecodePool(config, LIMITS, num_workers=2) as pool:
        todo = jobs(*(videos[number % len(videos)] for number in range(num_clips)))
        samples: list[list[int]] = []
        for number, _ in enumerate(pool.decode(todo)):
            if number % every == every - 1:
                samples.append([resident_bytes(pid) for pid in ("self", *pool.worker_pids())])
    # Allocators take their share in the beginning.
    measured = np.array(samples[len(samples) // 4 :], dtype=np.float64)
    assert measured.shape[1] == 3  # no worker was replaced
    slopes = np.polyfit(np.arange(len(measured)) * every, measured, 1)[0]
    assert (slopes * num_clips < 8 * 2**20).all(), f"bytes per clip: {slopes.round(1)}"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_jobs_run_under_the_same_protection(num_workers: int, tmp_path: Path) -> None:
    path = tmp_path / "three\udcff"
    with DecodePool(None, DecodeLimits(max_frame_pixels=77), num_workers=num_workers) as pool:
        assert list(pool.run([])) == []
        *results, bug, missing = pool.run(
            [
                CountBytes(str(path), b"abc"),
                CountBytes(str(path), b""),
                CountBytes(str(path), None),
                CountBytes("/nonexistent/x", b""),
            ]
        )
        assert results == [{"sizes": [3], "limit": 77, "nan": None}, {"sizes": [0], "limit": 77, "nan": None}]
        assert error_of(bug).reason_code == "internal_error"
        assert error_of(missing).reason_code == "read_error"
        with pytest.raises(ConfigError, match="config=None"):
            list(pool.decode(jobs(path)))


def test_other_jobs_that_hang_or_crash_cost_their_row(make_pool: Callable[..., DecodePool], tmp_path: Path) -> None:
    pool = make_pool(1)
    crashed, done = pool.run([CountBytes("abort:", b""), CountBytes(str(tmp_path / "x"), b"abc")])
    assert error_of(crashed).reason_code == "crashed"
    assert isinstance(done, dict) and done["sizes"] == [3]


def test_frame_memory_refuses_what_does_not_fit() -> None:
    memory = FrameMemory(open_frame_memory())
    batch = FrameBatch(np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5), np.array([0.5, -1.0]))
    answer = memory.write(batch)
    assert outcome_of(memory.read(answer)) == outcome_of(batch)
    for shape in ([2, 3, 4], [2, 3, 4, -5], [2, 3, 4, 5000], ["2", 3, 4, 5], [True, 3, 4, 5.0]):
        with pytest.raises(ValueError):
            memory.read({**answer, "shape": shape})
    with pytest.raises(OSError):
        os.ftruncate(memory.fd, 1)
    memory.close()
