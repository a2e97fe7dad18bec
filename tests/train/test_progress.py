"""What is said while a run trains."""

from snnrepro.train import progress


def run_epoch(monkeypatch, seconds_per_batch, *, epoch=0, first=0, batches=100):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = progress.Progress(epoch, 120, batches, first)
    for _ in range(30):
        clock[0] += seconds_per_batch
        bar.update(1.0, 50.0, 10.0)
    bar.close()


def test_a_long_epoch_says_early_how_long_the_run_takes(monkeypatch, capsys):
    run_epoch(monkeypatch, 36.0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "per epoch" in line]
    assert line.startswith("epoch 1/120: about 60.0 min of training per epoch, 120.0 h for the rest of the run, up to ")
    run_epoch(monkeypatch, 36.0, epoch=118, first=50)
    assert "about 60.0 min of training per epoch, 1.5 h for the rest" in capsys.readouterr().out


def test_a_short_epoch_says_nothing(monkeypatch, capsys):
    run_epoch(monkeypatch, 0.01)
    assert "per epoch" not in capsys.readouterr().out
